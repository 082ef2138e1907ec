"""The methods paragraphs of a manuscript, filled from a run's own numbers, and the references they cite.

A sentence whose numbers the run does not hold is left out: none is typed by hand.
"""

import re
from pathlib import Path

from data_prep import report_run, snow_index
from data_prep.manuscript_latex import MARK, escape, whole
from data_prep.manuscript_steps import first, judged, method_name, text
from data_prep.report_run import number, part, rows_of
from data_prep.report_verdicts import AGAINST

SOURCES = Path(__file__).parent / "manuscript_references.bib"
LOSSES = {
    "bce-dice": "the sum of binary cross-entropy and the Dice loss of each image",
    "bce": "binary cross-entropy",
    "dice": "the Dice loss of each image",
    "focal": r"the focal loss~\cite{lin2017}",
    "focal-dice": r"the sum of the focal loss~\cite{lin2017} and the Dice loss of each image",
    "tversky": r"the Tversky loss~\cite{salehi2017}",
}
SPLIT_BY = {
    "site": "whole sites",
    "year": "whole years",
    "site-year": "sites and years",
    "block": "blocks of ground",
}
SAM_NAMES = {"vit_t": r" (MobileSAM~\cite{zhang2023})"}


def say(template: str, **values) -> str:
    """A sentence with <name> filled from values, escaped unless Tex; "" where any value is missing."""
    if any(values.get(name) in (None, "") for name in re.findall(r"<(\w+)>", template)):
        return ""
    return re.sub(r"<(\w+)>", lambda found: escape(values[found[1]]), template)


def general(value) -> str | None:
    """A number as the run has it, rounded to four digits: 0.495, 12, 0.001."""
    if whole(value) is None:
        return None
    return whole(value) if value == int(value) else f"{value:.4g}"


def percent(value) -> str | None:
    return f"{100 * value:.4g}" if whole(value) is not None else None


def count_of(step: dict, name: str) -> str | None:
    """ "1 triplet", "24 triplets", as a step's result says."""
    count = number(step["result"], f"{name}s")
    return None if count is None else report_run.counted(count, name)


def listed(words) -> str | None:
    words = [str(word) for word in words] if isinstance(words, (list, tuple)) else []
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words) or None


# ---- paragraphs --------------------------------------------------------------------------------------------


def scenes(run: dict) -> list[str]:
    told = []
    step = first(run, "simulate")
    if step:
        a = step["arguments"]
        told.append(say(
            r"All scenes of radar and optics were \emph{simulated}: <sites> sites of <size> by <size> "
            r"pixels, <dates> "
            "passes each from <start> on, one every <days> days, <looks> looks, seed <seed>. No "
            "measurement is in them.",
            sites=whole(step["result"].get("sites")), size=whole(a.get("size")), start=a.get("start"),
            dates=whole(step["result"].get("dates")), days=general(a.get("interval_days")),
            looks=general(a.get("looks")), seed=whole(a.get("seed")),
        ))  # fmt: skip
    step = first(run, "download")
    if step:
        a = step["arguments"]
        told.append(say(
            "Sentinel-1 and Sentinel-2 scenes came from the catalogue <catalog>, optical passes of at most "
            "<cloud>\\,\\% cloud.", catalog=str(a.get("catalog") or "").rpartition("/")[2],
            cloud=general(a.get("max_cloud_percent")),
        ))  # fmt: skip
    return told


def triplets(run: dict) -> list[str]:
    step = first(run, "curate")
    if not step:
        return []
    a, result = step["arguments"], step["result"]
    out = part(result, "rejected")
    counts = [v for v in (result.get("kept"), *out.values()) if isinstance(v, int)]
    rejected = listed([f"{whole(count)} by the rule {name}" for name, count in out.items()])
    rows = rows_of(step, "triplets")
    days = sorted(row["date"] for row in rows if row.get("date"))
    index = text(a.get("index"))
    ndsi = rf"NDSI above {snow_index.NDSI_SNOW}~\cite{{dozier1989}} and near-infrared reflectance above "
    ndsi += rf"{snow_index.NIR_SNOW}~\cite{{hall1995}}"
    ndfsi = rf"NDFSI above {snow_index.NDFSI_SNOW}~\cite{{wang2015}}"
    season = a.get("snow_season") if isinstance(a.get("snow_season"), list) else [None, None]
    rule = {
        "ndsi": f"Snow is {ndsi}.", "ndfsi": f"Snow is {ndfsi}.",
        "combined": say(f"Snow is {ndsi}; in forest, in the northern months <first> to <last> (shifted in "
        f"the south), "
                        f"also {ndfsi}.", first=season[0], last=season[-1]),
    }.get(index, "")  # fmt: skip
    return [
        say("Radar and optical passes at most <gap>\\,h apart were put on one grid and cut into tiles of "
            "at most <tile> pixels.", gap=general(a.get("max_gap_hours")), tile=whole(a.get("tile"))),
        say("A tile was kept if at most <cloud>\\,\\% of it is cloud or its shadow and at least "
            "<valid>\\,\\% has both radar and a label.", cloud=percent(a.get("max_cloud_share")),
            valid=percent(a.get("min_valid_share"))),
        say("Of <all> candidates <kept> were kept (<rejected> were left out).", all=whole(sum(counts)),
            kept=whole(result.get("kept")), rejected=rejected),
        say("They show <sites> sites from <start> to <end>.",
            sites=whole(len({r.get("site") for r in rows}) or None),
            start=days[0] if days else None, end=days[-1] if days else None),
        say("Masks are optical, by the snow index ``<index>''.", index=index), rule,
        say("Speckle was reduced by a <name> filter of <window> pixels.", name="Lee",
            window=whole(a.get("speckle_window"))) if a.get("speckle") == "lee" else "",
    ]  # fmt: skip


def sides(run: dict) -> list[str]:
    step = first(run, "split")
    if not step:
        return []
    balance = part(step["result"], "balance")

    def each(key):
        return "/".join(str(whole(part(balance, name).get(key)) or "--") for name in ("train", "val", "test"))

    whose = SPLIT_BY.get(text(step["arguments"].get("by")))
    return [
        say("For training, validation and test the triplets were divided by <by>, at random from seed "
            "<seed>: <triplets> triplets of <sites> "
            "sites.", by=whose, seed=whole(step["arguments"].get("seed")),
            triplets=each("triplets") if balance else None, sites=each("sites")),
        "No piece of ground is on two sides." if step["result"].get("shares_ground") is False else "",
    ]  # fmt: skip


def training(run: dict) -> list[str]:
    step = first(run, "train")
    if not step:
        return []
    a, result = step["arguments"], step["result"]
    contract, best = part(result, "contract"), part(result, "best")
    epoch, bands = best.get("epoch"), contract.get("bands")
    bands = bands if isinstance(bands, list) else []
    loss = LOSSES.get(text(a.get("loss")), "<loss>")
    return [
        say(r"A U-Net~\cite{ronneberger2015} of width <width> and depth <depth>, with <norm> normalisation "
            r"and "
            "<count> parameters, maps <target> snow from <bands>.", width=whole(a.get("width")),
            norm=a.get("norm"),
            depth=whole(a.get("depth")), count=whole(result.get("parameters")), target=a.get("target"),
            bands=listed(bands)),
        say("Backscatter is <backscatter> in <units>; bands are normalised by the mean and standard "
            "deviation of the training "
            "side.", backscatter=contract.get("backscatter"), units=contract.get("units")),
        r"Bands ending in -ref are differences to a reference of the same track, as in the detection of wet "
        r"snow~\cite{naglerrott2016}."
        if any(str(b).endswith("-ref") for b in bands) else "",
        say(f"It was trained for <epochs> epochs (<steps> steps) of batches of <batch> crops of <crop> "
            f"pixels with {loss}, by AdamW at a learning rate of <rate> with a weight decay of "
            "<decay>, warmed up over <warm>\\,\\% of the steps and then a half cosine, from seed <seed>.",
            epochs=whole(result.get("epochs")), steps=whole(result.get("steps")), batch=whole(a.get("batch")),
            crop=whole(contract.get("tile")), loss=a.get("loss"), rate=general(a.get("learning_rate")),
            decay=general(a.get("weight_decay")), warm=percent(a.get("warm_up")), seed=whole(a.get("seed"))),
        say("Crops were turned, mirrored and given a gain of at most <gain>\\,dB.",
            gain=general(a.get("gain_db")))
        if a.get("augment") else "",
        say("Weights are an exponential average of decay <ema>.", ema=general(a.get("ema")))
            if a.get("ema") else "",
        say("Kept is epoch <epoch>, of the highest IoU on the validation side (<iou>), which also gave the "
            "threshold of <threshold>.", epoch=whole(epoch + 1) if isinstance(epoch, int) else None,
            iou=general(best.get("iou")), threshold=general(best.get("threshold"))),
    ]  # fmt: skip


def judging(run: dict) -> list[str]:
    step, rows = judged(run)
    if not rows:
        return []
    names = listed([method_name(row.get("method")) for row in rows])
    judged_by = AGAINST.get(text(step["arguments"].get("against")), "optical labels")
    return [
        say("Scored against <against> on the <split> side were <names>: <n> triplets of <sites> sites, "
            "<snow> of them with snow.", against=judged_by, split=step["result"].get("split"), names=names,
            n=whole(step["result"].get("triplets")), sites=whole(number(rows[0], "sites")),
            snow=whole(number(rows[0], "sites_with_snow"))),
        "All methods were scored on the same pixels." if len(rows) > 1 else "",
        "Scores come from one confusion matrix over all pixels; intervals are of 95\\,\\%, by a bootstrap "
        "over sites "
        r"and then over scenes within them, its percentiles widened for few sites~\cite{hesterberg2015}, and "
        "differences are paired on the same resamples.",
    ]  # fmt: skip


def segment_anything(run: dict) -> list[str]:
    step = first(run, "sam")
    if not step:
        return []
    result = step["result"]
    kind = SAM_NAMES.get(text(result.get("model")), "")
    prompts = listed(list(part(result, "prompts")))
    return [
        say(rf"Segment Anything~\cite{{kirillov2023}}{kind} mapped <n> of the <split> side, shown "
            rf"as <image>, "
            "with prompts <prompts>; oracle prompts are drawn from the reference and are upper bounds.",
            n=count_of(step, "triplet"), split=result.get("split"), prompts=prompts,
            image={"sar": "radar", "rgb": "RGB"}.get(text(result.get("image")))),
        say("Weights: <origin>.", origin=str(result.get("provenance") or "").rstrip(".") or None),
    ]  # fmt: skip


def networks(run: dict) -> list[str]:
    told = []
    step = first(run, "probe")
    if step:
        names = listed(list(part(step["result"], "models")))
        cited = r"~\cite{oquab2023}" if "dinov2" in (names or "") else ""
        told_apart = any(number(row, "held_out_auc_sar") is not None for row in rows_of(step, "layers"))
        chosen = (
            " Of each layer the channel that tells snow best was chosen on other sites than it was judged on."
        )
        chosen *= told_apart
        told.append(say(
            f"Activations of <names>{cited} were taken of RGB and radar of <n> of <sites>."
            + chosen, names=names, n=count_of(step, "triplet"), sites=count_of(step, "site"),
        ))  # fmt: skip
    step = first(run, "pairs")
    if step:
        a, result = step["arguments"], step["result"]
        best = part(result, "best").get("epoch")
        told.append(say(
            r"Two encoders (SAR: <sar>, RGB: <rgb>; <count> parameters) were trained as in "
            r"CLIP~\cite{radford2021} to "
            "bring both pictures of a place together in <dimensions> dimensions, for <epochs> epochs from "
            "seed <seed>" + ("; kept is epoch <best>." if isinstance(best, int) else "."),
            best=whole(best + 1) if isinstance(best, int) else None,
            sar=a.get("sar_encoder"), rgb=a.get("rgb_encoder"), count=whole(result.get("parameters")),
            dimensions=whole(a.get("dimensions")), epochs=whole(result.get("epochs")),
            seed=whole(a.get("seed")),
        ))  # fmt: skip
    step = first(run, "embed")
    if step:
        told.append(say(
            r"The modality gap~\cite{liang2022} was measured on <pairs> pairs of <sites> sites, one date "
            r"each (<judged>).",
            pairs=whole(step["result"].get("pairs_measured")),
            sites=whole(step["result"].get("sites_measured")),
            judged=step["result"].get("judged"),
        ))  # fmt: skip
    return told


def climate(run: dict) -> list[str]:
    step = first(run, "climate")
    if not step:
        return []
    a, result = step["arguments"], step["result"]
    main = next((r.get("method") for r in rows_of(step, "seasonal") if r.get("default") == "True"), None)
    source = {"unet": "the U-Net's masks"}.get(text(result.get("source")), text(result.get("source")))
    return [
        say("Snow cover from <source> was joined with daily weather on <rows> dates and places of <sites> "
            "sites (<dates> dates); less than <valid>\\,\\% of a site's most valid pixels was dropped.",
            source=source,
            rows=whole(result.get("rows")), sites=whole(result.get("sites")),
            dates=whole(result.get("dates")),
            valid=percent(a.get("min_valid"))),
        say("Associations are of anomalies from the mean of each month, over windows of up to <window> "
            "days; errors are clustered by "
            "<errors>.", window=whole(a.get("window_days")), errors=result.get("errors")
            if result.get("errors") in ("year", "site") else None),
        say(r"Trends are by <method>~\cite{hirschslack1984,sen1968}." if "Hirsch-Slack" in (main or "")
            and "Sen" in main else "Trends are by <method>.", method=main),
        say(r"All <tests> tests made were corrected together~\cite{benjamini1995}.",
            tests=whole(result.get("tests"))),
        say("A correlation below <r> was called too small to matter.", r=general(a.get("worth_r"))),
        "All of this is association, none of it cause.",
    ]  # fmt: skip


def making(run: dict) -> list[str]:
    finished = [step for step in run["steps"] if step["finished"]]
    commits = [commit for step in finished if (commit := report_run.commit_of(step))]
    changed = "+" in "".join(commits)
    versions = {}
    for step in finished:
        for name, version in part(step["result"], "versions").items():
            versions.setdefault(str(name), []).append(str(version))
    told = listed([f"{name} {'/'.join(dict.fromkeys(found))}" for name, found in sorted(versions.items())])
    hours = sum(number(step["result"], "seconds") or 0 for step in finished) / 3600
    devices = listed(
        list(dict.fromkeys(str(s["result"]["device"]) for s in finished if s["result"].get("device")))
    )
    return [
        say("Code: SnowSAR, commit <commits>.", commits=listed(list(dict.fromkeys(commits)))),
        "A + marks files changed since that commit." if changed else "",
        say("Versions: <versions>.", versions=told),
        say("The <count> steps took <hours>\\,h; networks ran on <device>.", count=whole(len(finished)),
            hours=f"{hours:.2g}" if hours else None, device=devices),
    ]  # fmt: skip


PARAGRAPHS = {"Scenes": scenes, "Triplets": triplets, "Split": sides, "Network": training, "Scores": judging,
              "Segment Anything": segment_anything, "Other networks": networks, "Climate": climate,
              "Reproduction": making}  # fmt: skip


def methods(run: dict) -> tuple[str, list[str], list[str]]:
    """methods.tex, the keys it cites, and sentences on what it leaves out."""
    lines, left_out = [], []
    for title, tell in PARAGRAPHS.items():
        try:
            sentences = [sentence for sentence in tell(run) if sentence]
        except Exception as error:  # a result of a kind nobody foresaw costs its paragraph
            left_out.append(f"methods, {title}: cannot be told of what the run holds ({error!r:.200})")
            continue
        if sentences:
            lines += [rf"\subsection{{{title}}}", *sentences, ""]
        else:
            left_out.append(f"methods, {title}: no finished step tells")
            lines += [f"% {title}: no finished step of the run tells.", ""]
    described = {
        first(run, step["kind"]) and first(run, step["kind"])["name"] for step in run["steps"] if step["kind"]
    }
    others = [step["name"] for step in run["steps"] if step["name"] not in described]
    if others:
        left_out.append(
            f"methods, steps not described (unfinished, or further ones of a kind): {', '.join(others)}"
        )
    written = "\n".join([MARK, *lines])
    cited = {key for keys in re.findall(r"\\cite\{([^}]*)\}", written) for key in keys.split(",")}
    return written, sorted(cited), left_out


def bibliography(cited: list[str]) -> str:
    """references.bib: the entries of the sources cited."""
    heading, *entries = SOURCES.read_text(encoding="utf-8").split("\n\n")
    kept = [entry.strip() for entry in entries if re.match(r"@misc\{(\w+),", entry)[1] in cited]
    return "\n\n".join([f"{MARK}\n{heading}", *kept]) + "\n"
