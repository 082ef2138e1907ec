"""Contact sheets of curation: what was kept, and what was not with the rule that left it out."""

from collections import Counter

from data_prep import pairs, pictures, rasters, sar, scenes, triplets
from data_prep.runs import BadInput


def sample(sheet: list, record: dict, seen: Counter, size: int) -> None:
    """Keep a sheet's worth of records: every rule and site once before any twice, later ones thin out."""
    kind = (record["rule"], record["site"])
    seen[kind] += 1
    sheet.append((seen[kind], record))
    if len(sheet) > 4 * size:
        sheet.sort(key=lambda item: item[0])
        del sheet[size:]


def draw(args, sheets: dict) -> None:
    """Contact sheets: what was kept, and what was not with the rule that left it out."""
    titles = {
        "kept": f"Kept triplets (radar VV, RGB, mask by {args.index})",
        "rejected": "Rejected candidates and the rule",
    }
    origin = triplets.origin([record for sample in sheets.values() for _, record in sample])
    for group, sample in sheets.items():
        chosen = [record for _, record in sorted(sample, key=lambda item: item[0])[: args.sheet]]
        panels = [
            preview(record, args) for record in sorted(chosen, key=lambda r: (r["rule"] or "", r["site"]))
        ]
        pictures.contact_sheet(args.out / f"contact_sheet_{group}.png", panels, titles[group] + origin)


def preview(record: dict, args) -> dict:
    """Arrays and caption of a record, read again from the scenes."""
    site = args.data / record["site"]
    found = {
        sensor: next((s for s in scenes.list_scenes(site, sensor) if s.path.name == record.get(sensor)), None)
        for sensor in ("s1", "s2")
    }
    date = (found["s1"] or found["s2"]).date
    fraction = record.get("snow_fraction")
    share = (
        f"cloud {record['cloud_share']:.0%}, valid {record['valid_fraction']:.0%}"
        if "cloud_share" in record
        else ""
    )
    caption = f"{record['site']} {date}\n" + (
        f"{record['rule']}; {share}".rstrip("; ")
        if record["rule"]
        else f"snow {fraction:.0%} of valid, {share}, gap {record['gap_hours']:+.0f} h"
    )
    panel = {"caption": caption}
    try:
        if found["s1"] and found["s2"] and "row" in record:
            pair = pairs.open_pair(site, found["s1"], found["s2"], args)
            tile = pairs.judge_tile(pair, [record[name] for name in ("row", "col", "height", "width")], args)
            limits = scenes.scene_limits(found["s1"].path, tile["bands"][0], pair["radar"].units)
            return {
                **panel,
                "sar": sar.stretch(tile["radar"][0], limits),
                "mask": tile["mask"],
                "rgb": tile["rgb"].transpose(1, 2, 0),
            }
        if found["s2"]:
            raster = rasters.open_optical(found["s2"].path)
            values = rasters.read(raster, ["B04", "B03", "B02"], max_pixels=256 * 256)
            panel["rgb"] = sar.stretch(values, scenes.rgb_limits(found["s2"].path)).transpose(1, 2, 0)
        elif found["s1"]:
            raster = rasters.open_radar(found["s1"].path, args.units, args.backscatter)
            values = rasters.read(raster, ["VV"], max_pixels=256 * 256)[0]
            panel["sar"] = sar.stretch(values, sar.stretch_limits(values))
    except BadInput as error:
        panel["caption"] += f"\n{str(error)[:60]}"
    return panel
