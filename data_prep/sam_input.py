"""What SAM is to map: triplets, the stretch of their scenes, what it sees of them and the cues of prompts."""

from data_prep import compose, foreign_masks, mask_folders, rasters, runs, shares, triplets
from data_prep.runs import BadInput

UNTOLD = 0.5  # threshold of a U-Net's probability where its files do not tell it


def choose_triplets(args) -> tuple[list[dict], list[dict]]:
    """(the triplets to map, of a share its own; all of the manifest)."""
    manifest = triplets.read_manifest(args.data)
    rows = manifest.rows if args.split == "all" else manifest.of(args.split).rows
    rows = compose.sample(rows, args.sample, args.seed)[: args.limit]
    if not rows:
        raise BadInput(
            f"{args.data}: split {args.split!r} is empty; choose another --split or run data_prep.split."
        )
    return shares.mine(rows, args.share), manifest.rows


def stretch(args, rows, every) -> tuple[dict, list[str]]:
    """The stretch of the triplets' scenes over all there is of them, and what cannot be read of that."""
    unreadable = []
    if args.image == "rgb":
        return {}, unreadable
    scenes = {compose.scene_key(row) for row in rows}
    siblings = [row for row in every if compose.scene_key(row) in scenes]
    return compose.scene_limits(siblings, compose.COMPOSE[args.compose], unreadable), unreadable


def look_at(args, rows, limits: dict, unet, stop) -> tuple[list[dict], dict[str, str]]:
    """(triplets that can be mapped, {id: problem} of the others).

    One of the others ends the run, unless they are left out (--skip-bad) or it is that of a share.
    """
    good, problems = [], {}
    for row in runs.progress(rows, len(rows), "reading"):
        if stop.requested:
            raise runs.Interrupted
        try:
            picture, valid = read_picture(args, row, limits)
            read_cues(args, row, picture, unet)
            if not valid.any():
                raise BadInput(f"{row['id']}: no pixel of its {args.image} is valid.")
            good.append(row)
        except BadInput as error:
            if not (args.skip_bad or args.share):
                problem = str(error).rstrip(".")
                raise BadInput(f"{problem}; mend it, or leave such triplets out with --skip-bad.") from None
            runs.say(f"{'left out' if args.skip_bad else 'broken'}: {error}")
            problems[row["id"]] = str(error)
    return good, problems


def read_picture(args, row: dict, limits: dict):
    """What SAM sees of a triplet, uint8 (H, W, 3), and where it is valid."""
    return compose.rgb_picture(row) if args.image == "rgb" else compose.sar_picture(row, args.compose, limits)


def read_cues(args, row: dict, picture, unet) -> dict:
    """Cues of a triplet, uint8 (H, W) of 0, 1, 255: truth, and unet with its probability and threshold."""
    cues, shape = {"truth": triplets.read_mask(row, args.target)}, picture.shape[:2]
    if cues["truth"].shape != shape:
        raise BadInput(f"{row['id']}: its {args.image} is {shape} pixels, its mask {cues['truth'].shape}.")
    if unet:
        paths = mask_folders.find(unet, row)
        if not paths:
            raise BadInput(f"{args.unet}: no mask of {row['id']}; run infer_unet.py on the same triplets.")
        cues["unet"] = foreign_masks.read(unet, row, shape)
        if cues["unet"] is None:
            raise BadInput(f"{paths[0]}: has no valid pixel; run infer_unet.py again.")
        tags = rasters.open_header(paths[0]).tags if paths[0].suffix != ".png" else {}
        cues["threshold"] = float(tags.get("threshold", UNTOLD))
        cues["probability"] = foreign_masks.read(unet, row, shape, "probability")
    return cues
