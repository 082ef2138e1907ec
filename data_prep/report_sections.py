"""The sections of a report on data and on masks: maps, funnels, scores, chips to leaf through."""

from data_prep import report_images, report_run, reporting, runs, triplets
from data_prep.report_blocks import (
    figure,
    heading,
    in_run,
    interval,
    missing,
    short,
    some,
    stamps,
    table,
    text,
    unfinished,
)
from data_prep.report_run import counted, number, of_kind, part, rows_of
from data_prep.report_verdicts import about_net, flat_scores, scores_of, target_of

CHIPS = (24, 12)  # of the first scoring, and of each further one
SCORES = ("iou", "f1", "balanced_accuracy", "mcc", "auprc", "snow_area_bias")
SCORE_NAMES = ("IoU of snow", "F1", "balanced accuracy", "MCC", "AUPRC", "snow area bias (share of ground)")


# ---- data --------------------------------------------------------------------------------------------------


def data(run: dict) -> dict:
    blocks = []
    blocks += maps(run)
    curated = of_kind(run, "curate")
    if not curated:
        blocks.append(missing("No step of data_prep.curate: no funnel of curation, no contact sheets."))
    for step in some(curated, blocks):
        blocks += [heading(step), funnel(step)]
        for group, words in (
            ("kept", "Triplets kept: radar VV, RGB, snow mask"),
            ("rejected", "Candidates left out, and the rule that left them out"),
        ):
            left = part(step["result"], "rejected")
            if group == "rejected" and step["finished"] and not any(left.values()):
                blocks.append(text(f"{step['name']}: no candidate was left out."))
                continue
            counts = [value for value in left.values() if isinstance(value, int)]
            of = step["data"] if group == "kept" else f"{sum(counts):,} left out"
            blocks.append(figure(step, f"contact_sheet_{group}.png", f"{words}; of {of}."))
    splits = of_kind(run, "split")
    if not splits:
        blocks.append(missing("No step of data_prep.split: nothing is held out for testing."))
    for step in some(splits, blocks):
        rows = [
            [
                name,
                *(
                    f"{number(row, key):,.0f}" if number(row, key) is not None else None
                    for key in ("triplets", "sites", "snow", "snow_free", "tiles_with_snow")
                ),
                short(number(row, "snow_share")),
            ]
            for name, row in part(step["result"], "balance").items()
            if isinstance(row, dict)
        ]
        columns = [
            "split",
            "triplets",
            "sites",
            "snow pixels",
            "snow-free pixels",
            "tiles with snow",
            "snow share",
        ]
        shared = step["result"].get("shares_ground")
        by = step["result"].get("by")
        note = (f"Split by {by}. " if by else "") + (
            "No piece of ground is in two splits."
            if shared is False
            else "Splits share ground."
            if shared
            else ""
        )
        blocks.append(
            table(f"{step['name']}: what is trained on and what is held out", columns, rows, step, note)
            if rows
            else unfinished(step)
        )
    return {"id": "data", "title": "Data", "blocks": blocks}


def maps(run: dict) -> list[dict]:
    """A map for simulated and one for real sites: they have nothing to do with each other."""
    blocks = []
    for simulated in (True, False):
        places = {}
        for step in of_kind(run, "curate", "split"):
            for row in rows_of(step, "triplets") if step["simulated"] == simulated else ():
                latitude, longitude = number(row, "latitude"), number(row, "longitude")
                if (
                    latitude is not None
                    and longitude is not None
                    and abs(latitude) <= 90
                    and abs(longitude) <= 180
                ):
                    before = places.get(row.get("site"), {}).get("split")
                    split = row.get("split") or before or ""
                    places[row.get("site")] = {
                        "site": row.get("site") or "?",
                        "latitude": latitude,
                        "longitude": longitude,
                        "split": "several" if before and before != split else split,
                    }
        if places:
            name = "simulated " if simulated else ""
            drawn = report_images.site_map(list(places.values()))
            more = f" ({drawn['shown']:,} of them drawn)" if drawn["shown"] < drawn["total"] else ""
            blocks.append(
                {
                    "kind": "map",
                    "map": drawn,
                    "stamps": ["simulated data"] if simulated else [],
                    "caption": f"Map of {counted(len(places), f'{name}site')}{more}; WGS84, in degrees.",
                }
            )
    return blocks or [missing("No triplets.csv with latitudes and longitudes: no map of the sites.")]


def funnel(step: dict) -> dict:
    """How many candidates each rule of the curation removed."""
    if not (step["folder"] / "curation.json").is_file():
        return missing(f"{step['name']}/curation.json is not there: no funnel of curation.")
    found = report_run.read_json(step["folder"] / "curation.json", step["problems"])
    total, kept = number(found, "candidates"), number(found, "kept")
    if total is None or kept is None:
        return missing(f"{step['name']}/curation.json holds no funnel of curation.")
    rules, left = part(found, "rules"), total
    rows = [
        {"name": "candidates", "count": total, "why": "pairs of a radar and an optical tile", "share": 1.0}
    ]
    for rule, count in part(found, "rejected").items():
        if isinstance(count, (int, float)):
            left -= count
            rows.append(
                {
                    "name": f"− {rule}",
                    "count": count,
                    "why": str(rules.get(rule, "")),
                    "share": count / max(1, total),
                }
            )
    rows.append(
        {
            "name": "kept",
            "count": kept,
            "why": f"{short(number(found, 'flagged'))} of them flagged for a look",
            "share": kept / max(1, total),
        }
    )
    return {
        "kind": "funnel",
        "rows": rows[:40],
        "columns": ["rule", "candidates", "share of all", "what it means"],
        "note": "",
        "stamps": stamps(step),
        "caption": f"{step['name']}: the funnel of curation, in candidates",
    }


# ---- masks -------------------------------------------------------------------------------------------------


def segmentation(run: dict) -> dict:
    blocks = []
    for step in some(of_kind(run, "train"), blocks):
        blocks += [
            heading(step),
            text(about_training(step["result"])) if step["finished"] else unfinished(step),
        ]
        blocks.append(
            figure(
                step,
                "curves.png",
                f"Training of {step['name']}: loss, validation scores, learning rate by epoch.",
            )
        )
    if not of_kind(run, "train"):
        blocks.append(missing("No step of train_unet.py: no network of this run's own."))
    scored = of_kind(run, "score")
    if not scored:
        blocks.append(
            missing("No step of infer_unet.py on triplets: no scores of the U-Net, no chips to look at.")
        )
    judged = of_kind(run, "judge")
    for step in some(judged, blocks):
        blocks += [heading(step), scores(step, rows_of(step, "scores")), *differences(step)]
        blocks.append(strata(step, "Scores by stratum, with 95 % intervals over sites."))
        blocks += [
            figure(step, path.name, f"Probabilities of {path.stem[10:]}: by class, and calibration.")
            for path in sorted(step["folder"].glob("histogram_*.png"))[:2]
        ]
    if not judged:
        blocks.append(missing("No step of score_masks.py: no table of several methods on the same pixels."))
    sams = of_kind(run, "sam")
    if not sams:
        blocks.append(
            missing("No step of run_sam.py: Segment Anything was left out (its weights may be lacking).")
        )
    for step in some(sams, blocks):
        origin = step["result"].get("provenance") or "weights of unknown origin"
        blocks += [
            heading(step),
            text(
                f"Segment Anything: {origin}. Oracle prompts are drawn from the labels it is judged by: "
                "upper bounds, not results. All methods here, the U-Net too, are judged on these chips alone "
                "and against labels."
            ),
        ]
        blocks += [scores(step, rows_of(step, "scores")), *differences(step)]
        blocks.append(strata(step, "Scores of each prompt by stratum, with 95 % intervals over sites."))
        for name in ("overlays_unet-box.png", "overlays_oracle-box.png"):
            if (step["folder"] / name).is_file():
                blocks.append(
                    figure(step, name, f"Masks and errors with prompts {name[9:-4]}, from best to worst.")
                )
    for place, step in enumerate(some(scored, blocks)):
        blocks.append(heading(step))
        if step["finished"]:
            row = {**flat_scores(step), "method": about_net(step, run)}
            wet = " of wet snow" * (target_of(step, run) == "wet")
            blocks.append(scores(step, [row], f"optical labels{wet}"))
        else:
            blocks.append(unfinished(step))
        blocks.append(chips(step, run, CHIPS[min(place, 1)]))
        if not judged:
            blocks.append(figure(step, "histogram.png", "Probabilities by class, and calibration."))
    return {"id": "segmentation", "title": "Segmentation", "blocks": blocks}


def strata(step: dict, caption: str) -> dict:
    """The figure of scores by stratum, where any stratum has a score."""
    rows = rows_of(step, "strata")
    if rows and not any(number(row, name) is not None for row in rows for name in SCORES[:3]):
        return text(f"{step['name']}: no figure of strata, for no stratum has a score.")
    return figure(step, "strata.png", caption)


def about_training(net: dict) -> str:
    best, bands = part(net, "best"), part(net, "contract").get("bands")
    bands = ", ".join(map(str, bands)) if isinstance(bands, list) else "unknown"
    epoch, epochs, threshold = number(best, "epoch"), number(net, "epochs"), number(best, "threshold")
    kept = "no epoch was judged" if epoch is None else f"epoch {epoch + 1:.0f} is the best by validation"
    if epoch is not None and number(best, "iou") is None:
        kept = f"epoch {epoch + 1:.0f} is kept; validation gave no IoU"
    return (
        f"U-Net of {short(number(net, 'parameters'))} parameters, "
        f"{'–' if epochs is None else counted(epochs, 'epoch')}; input {bands}; {kept}, threshold "
        f"{short(threshold)}."
    )


def scores(step: dict, rows: list[dict], against: str = "") -> dict:
    """Scores with intervals of each method, and the floor: all ground marked as snow."""
    if not rows:
        return missing(f"{step['name']}/scores.csv is not there or holds no row: no table of scores.")
    against = against or {"truth": "the truth", "stations": "snow stations"}.get(
        str(step["arguments"].get("against")), "the labels"
    )
    cells = [
        [
            row.get("method") or "?",
            *(scores_of(row, name) for name in SCORES),
            short(number(row, "coverage")),
            "/".join(
                row.get(key) or "–" if isinstance(row.get(key), str) else short(number(row, key))
                for key in ("sites", "scenes", "sites_with_snow")
            ),
        ]
        for row in rows
    ]
    share = number(rows[0], "prevalence")
    if share:
        f1 = 2 * share / (1 + share)
        cells.append(
            [
                "floor: all marked as snow",
                f"{share:.2f}",
                f"{f1:.2f}",
                "0.50",
                "–",
                f"{share:.2f}",
                f"{1 - share:.2f}",
                "1",
                "–",
            ]
        )
    columns = ["method", *SCORE_NAMES, "coverage", "sites / scenes / sites with snow"]
    note = "Brackets: 95 % intervals by a bootstrap over sites, then scenes; of under six sites they mislead."
    pixels = number(rows[0], "pixels")
    pixels = f", {counted(pixels, 'pixel')}" if pixels is not None else ""
    split = f", split {step['result']['split']}" if step["result"].get("split") else ""
    return table(
        f"{step['name']}: scores against {against}{split}{pixels}; {step['data']}",
        columns,
        cells,
        step,
        note,
        "scores.csv",
    )


def differences(step: dict) -> list[dict]:
    found = {}
    for row in rows_of(step, "paired"):
        if row.get("stratum") == "all" and row.get("score") in SCORES:
            found.setdefault((row.get("first"), row.get("other")), {})[row["score"]] = row
    if not found:
        return []
    told, cells = {"yes": "yes", "no": "no"}, []
    for (first, other), by_score in found.items():
        rows = [by_score.get(name, {}) for name in SCORES]
        limits = [interval(*(number(row, key) for key in ("difference", "low", "high"))) for row in rows]
        cells.append(
            [f"{first} − {other}", *limits, told.get(rows[0].get("excludes_0"), "too few sites to tell")]
        )
    columns = ["difference", *SCORE_NAMES, "does the interval of IoU exclude 0?"]
    note = (
        "On the same pixels and resamples. The comparison to go by is IoU; the others are looked at besides."
    )
    return [
        table(
            f"{step['name']}: paired differences between methods, all pixels",
            columns,
            cells,
            step,
            note,
            "paired.csv",
        )
    ]


def chips(step: dict, run: dict, count: int) -> dict:
    """Chips to leaf through: radar, RGB, reference, mask, probability, errors."""
    by_name = {other["name"]: other for other in run["steps"]}
    source = report_run.triplets_step(step, by_name)
    if source is None:
        return missing(f"{step['name']}: its triplets lie outside the run folder: no chips to look at.")
    try:
        rows = {row["id"]: row for row in triplets.read_manifest(source["folder"]).rows}
    except (runs.BadInput, OSError) as error:
        return missing(f"No chips of {step['name']} to look at: {in_run(str(error), run)}")
    keys = ("pixels", "accuracy", "iou")
    judged = [
        {"id": row.get("id"), **{k: number(row, k) for k in keys}} for row in rows_of(step, "per_image")
    ]
    judged = [row for row in judged if row["id"] in rows and row["pixels"] and row["accuracy"] is not None]
    items, problems, target = [], [], target_of(step, run)
    for row, caption in reporting.best_to_worst(judged, count):
        about = rows[row["id"]]
        try:
            layers = report_images.chip(about, step["folder"], target)
        except report_images.NoPicture as error:
            problems.append(in_run(str(error), run))
            continue
        items.append(
            {
                "id": row["id"],
                "about": f"{about['site']}, {about['date'] or 'no date'}; {caption.splitlines()[-1]}",
                "layers": layers,
            }
        )
    if not items:
        why = problems[0] if problems else "per_image.csv names none of the triplets"
        return missing(f"No chips of {step['name']} to look at: {why}.")
    caption = (
        f"{step['name']}: {len(items)} of {len(judged):,} judged chips, evenly over their rank by accuracy, "
        f"best first{f'; {len(problems)} more cannot be read' if problems else ''}. "
        f"Reference: {target} snow. Of {step['data']}."
    )
    fallback = figure(
        step, "overlays.png", "Some of them: radar, RGB, reference, probability and errors, best to worst."
    )
    return {
        "kind": "chips",
        "caption": caption,
        "stamps": stamps(step),
        "fallback": fallback,
        "data": {"layers": list(report_images.LAYERS), "items": items},
    }
