"""What the figures and the page of embeddings say of what they show."""


def origin(about: dict) -> str:
    """The model, where its weights are from, and the stamps of random weights and of simulated data."""
    name = str(about.get("model", "embeddings of unknown origin"))
    name += f" ({about['provenance']})" if about.get("provenance") else ""
    return name + (", random weights" if about.get("random") else "") + str(about.get("origin") or "")


def measured(figures: dict, judged: str) -> str:
    """What the numbers are of: pairs, sites, size of the gallery, and how rows are kept apart."""
    size, chance = (figures["raw"]["sar_to_rgb"][name] for name in ("gallery", "chance_r_at_1"))
    return (
        f"{figures['pairs']} pairs of {figures['sites']} sites, one date of each ground; galleries of "
        f"{size}, chance of R@1 {chance:.4f}; {judged}"
    )


def note(rows: list[dict], total: int, figures: dict, points: int, seed: int) -> str:
    """Below the planes: which pairs are shown, how the planes came about, and how far to trust them."""
    which = "all" if len(rows) == total else f"by hash of seed {seed} and id, at most {points} rows"
    pca, tsne = figures["PCA"], figures["t-SNE"]
    return (
        f"{len(rows)} of {total} pairs, of {len({row['site'] for row in rows})} sites ({which}); vectors of "
        f"length 1. PCA of all of them: {sum(figures['pca_shares']):.0%} of the variance; t-SNE: perplexity "
        f"{figures['perplexity']:g}, begun at the PCA, seed {seed}. Trustworthiness: PCA "
        f"{pca['trustworthiness']:.3f}, t-SNE {tsne['trustworthiness']:.3f} ({tsne['neighbours']} "
        f"neighbours, {tsne['rows']} rows). t-SNE keeps neighbours, not distances: the gap is measured in "
        "modality_gap.json."
    )


def named(planes: dict, figures: dict) -> dict:
    """The planes under the names that stand on their axes."""
    first, second = figures["pca_shares"]
    names = {
        "PCA": f"PCA ({first:.0%}, {second:.0%})",
        "t-SNE": f"t-SNE (perplexity {figures['perplexity']:g})",
    }
    return {names[name]: plane for name, plane in planes.items()}


def page(title: str, answer: str, note: str, chips: int) -> dict:
    """The words of the page; chips: how many pairs have some at most, 0 where there are no pictures."""
    missing = (
        f"no chip: the first {chips} pairs have one" if chips else "made from embeddings alone: no chips"
    )
    hint = "Hover shows a pair, a click marks it." + ("" if chips else f" This page is {missing}.")
    return {"title": title, "answer": answer, "note": note, "hint": hint, "without": missing}
