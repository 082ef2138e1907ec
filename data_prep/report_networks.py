"""The sections of a report on networks: activations, and clouds of embeddings to browse."""

from data_prep import embedding_page, gap_tables, report_images, report_run
from data_prep.report_blocks import (
    figure,
    general,
    heading,
    missing,
    short,
    some,
    stamps,
    table,
    text,
    unfinished,
)
from data_prep.report_run import number, of_kind, part, rows_of
from data_prep.report_verdicts import scores_of, sizes_of, unpaired

PAIRS = 300  # pairs of embeddings that keep their chips
MOST_POINTS = 6000  # pairs of a plane that can be browsed
PICTURES = {
    "activations_comparison": "What the network makes of a place: patch colours, attention, feature maps",
    "attention_heads": "Attention of each head",
    "layers": "By depth: likeness of RGB and radar (CKA), effective rank, sparsity, AUC of snow",
}  # by how the file's name ends


def activations(run: dict) -> dict:
    blocks, steps = [], of_kind(run, "probe")
    if not steps:
        blocks.append(
            missing("No step of probe_activations.py: no activations (its weights may be lacking).")
        )
    for step in some(steps, blocks):
        blocks.append(heading(step))
        if not step["finished"]:
            blocks.append(unfinished(step))
        looked_at = ", ".join([*filter(None, [sizes_of(step, "triplets", "sites")]), ""])
        for name, model in part(step["result"], "models").items():
            if isinstance(model, dict):
                blocks.append(text(f"{name}: {model.get('provenance') or 'weights of unknown origin'}."))
        for path in sorted(step["folder"].glob("*.png"))[:8]:
            end = next((end for end in PICTURES if path.stem.endswith(end)), "")
            network = path.stem.removesuffix(end).strip("_")
            words = ": ".join(filter(None, [network, PICTURES.get(end)]))
            blocks.append(figure(step, path.name, f"{words}, RGB and radar of the same places."))
        rows = [
            [
                row.get("layer"),
                row.get("model"),
                row.get("weights"),
                short(number(row, "channels")),
                scores_of(row, "held_out_auc_rgb"),
                scores_of(row, "held_out_auc_sar"),
                short(number(row, "cka_unbiased")),
                short(number(row, "effective_rank_rgb")),
                short(number(row, "effective_rank_sar")),
            ]
            for row in rows_of(step, "layers")
        ]
        columns = [
            "layer",
            "model",
            "weights",
            "channels",
            "AUC of snow on held-out sites, RGB",
            "the same, SAR",
            "CKA of RGB and SAR",
            "effective rank, RGB",
            "effective rank, SAR",
        ]
        note = "AUC: the best channel, chosen on other sites; 0.5 is chance. Random weights are the floor."
        blocks.append(
            table(
                f"{step['name']}: what each layer tells of snow; {looked_at}out of {step['data']}",
                columns,
                rows,
                step,
                note,
                "layers.csv",
            )
            if rows
            else missing(f"{step['name']}/layers.csv is not there or holds no row.")
        )
    return {"id": "activations", "title": "Activations", "blocks": blocks}


def embeddings(run: dict) -> dict:
    blocks, steps = [], of_kind(run, "embed")
    for step in some(of_kind(run, "pairs"), blocks):
        blocks += [
            heading(step),
            figure(step, "curves.png", f"Training of {step['name']}: loss, retrieval, temperature by epoch."),
        ]
        if not step["finished"]:
            blocks.append(unfinished(step))
    if not steps:
        blocks.append(missing("No step of embed_tsne.py: no clouds of embeddings, no modality gap."))
    for step in some(steps, blocks):
        blocks.append(heading(step))
        sentence, open_ = step["result"].get("sentence"), unpaired(step["result"])
        blocks.append(text(sentence) if isinstance(sentence, str) else unfinished(step))
        if open_ and isinstance(sentence, str):
            blocks[-1] = text(f"{open_} What the figures alone would say: {sentence}")
        blocks += [pairs(step), gap(step)]
        blocks.append(
            figure(
                step,
                "gap.png",
                "Retrieval both ways, and what is left of the distance of pairs, by treatment.",
            )
        )
    return {"id": "embeddings", "title": "Embeddings", "blocks": blocks}


def pairs(step: dict) -> dict:
    """The step's own page, its data taken over after a check of their shape."""
    path = step["folder"] / "projection.html"
    if not path.is_file():
        return missing(f"{step['name']}/projection.html is not there: no projection to look at.")
    try:
        if path.stat().st_size > report_run.MAX_BYTES:
            raise ValueError("too large")
        found = checked_pairs(embedding_page.read(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return missing(
            f"{step['name']}/projection.html holds no projection that can be shown ({str(error)[:120]})."
        )
    count = len(found["pairs"]["id"])
    if count > MOST_POINTS:
        return missing(
            f"{step['name']}/projection.html holds {count:,} pairs, more than a page of all can show."
        )
    kept = [name for name in found["pairs"]["id"] if name in found["chips"]]
    kept = kept[:: -(-len(kept) // PAIRS)] if kept else []
    found["chips"] = {
        name: uris
        for name in kept
        if all(uris := [report_images.small_uri(uri) for uri in found["chips"][name]])
    }
    if kept and len(found["chips"]) < count:
        found["without"] = f"no chip: {len(found['chips'])} of the {count} pairs have one, evenly chosen"
    caption = f"{step['name']}: {count:,} pairs in a plane, circles RGB, squares SAR; hover shows the chips."
    caption += f" Of {step['data']}."
    fallback = figure(
        step, "projection.png", "The same in PCA and t-SNE, by modality, site, season and snow fraction."
    )
    return {"kind": "pairs", "caption": caption, "data": found, "stamps": stamps(step), "fallback": fallback}


def checked_pairs(found: dict) -> dict:
    """What showPairs draws, of the right lengths and types; ValueError otherwise."""
    names = ("id", "site", "date", "snow")
    columns = {name: list(found["pairs"][name]) for name in names}
    count = len(columns["id"])
    planes = {
        str(name): [[float(v) for v in axis] for axis in plane] for name, plane in found["planes"].items()
    }
    views = {
        str(name): {
            "colours": [str(c) for c in view["colours"]],
            "note": str(view.get("note") or ""),
            "key": {str(k): str(v) for k, v in view["key"].items()},
        }
        for name, view in found["views"].items()
    }
    if any(len(values) != count for values in columns.values()) or not planes or not count:
        raise ValueError("columns of different lengths")
    if any(len(plane) != 2 or any(len(axis) != 2 * count for axis in plane) for plane in planes.values()):
        raise ValueError("a plane of another length")
    if any(len(view["colours"]) != count for view in views.values()):
        raise ValueError("colours of another length")
    columns = {name: [str(v) for v in columns[name]] for name in names[:3]} | {
        "snow": [None if v is None else float(v) for v in columns["snow"]]
    }
    chips = {str(k): list(v)[:2] for k, v in found["chips"].items() if isinstance(v, list)}
    colours = {name: str(found["colours"][name]) for name in ("RGB", "SAR")}
    return {
        "pairs": columns,
        "planes": planes,
        "views": views,
        "chips": chips,
        "colours": colours,
        "without": str(found.get("without", "")),
    }


def gap(step: dict) -> dict:
    rows = rows_of(step, "modality_gap")
    if not rows:
        return missing(f"{step['name']}/modality_gap.csv is not there or holds no row: no table of the gap.")
    keys = (
        "unexplained",
        "taken",
        "probe",
        "neighbours",
        "sar_to_rgb_r_at_1",
        "rgb_to_sar_r_at_1",
        "sar_to_rgb_median_rank",
        "rgb_to_sar_median_rank",
    )
    cells = [
        [
            row.get("comparison"),
            {"raw": "nothing"}.get(row.get("treatment"), row.get("treatment")),
            *(
                scores_of(row, key)
                if abs(number(row, key) or 0) < 100
                else general(*(number(row, f"{key}{end}") for end in ("", "_low", "_high")))
                for key in keys
            ),
        ]
        for row in rows
    ]
    columns = [*gap_tables.SHOWN[:8], *gap_tables.SHOWN[10:]]
    note = (
        "Left of the distance: squared distance of pairs over that of strangers, 0 is the same point, 1 no "
        "pairs. Taken from it: by the move of SAR, below 0 where that drives pairs apart. Probe: accuracy of "
        "a linear probe for the modality, 0.5 cannot tell. Neighbours of its kind: 0.5 is mixed. Rank: "
        f"1 is best. {str(step['result'].get('judged') or '').capitalize()}."
    )
    return table(
        f"{step['name']}: the modality gap, before and after a shift and a rotation",
        columns,
        cells,
        step,
        note,
        "modality_gap.csv",
    )
