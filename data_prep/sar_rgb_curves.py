"""How a contrastive model learned, as a figure."""

from pathlib import Path

from data_prep import pictures

WAYS = {"sar_to_rgb": ("SAR to RGB", "#0072B2", "o"), "rgb_to_sar": ("RGB to SAR", "#D55E00", "s")}
START = 0.07  # the temperature that a model starts from, as CLIP's (arXiv:2103.00020)


def training_curves(path: Path, records: list[dict], title: str) -> None:
    """Loss, R@1 both ways beside chance, temperature and gap over epochs, from the records of log.jsonl."""
    fig = pictures.figure(7.2, 4.4)
    fig.suptitle(title)
    (loss, found), (temperature, gap) = fig.subplots(2, 2, sharex=True)
    x, last = [record["epoch"] + 1 for record in records], records[-1]
    judged = {"val": "validation", "train": "training"}[last["judged_on"]]
    loss.plot(
        x,
        [record["train_loss"] for record in records],
        label="training, each step's net",
        color="#444444",
        marker=".",
    )
    values = [record["loss"] for record in records]
    loss.plot(x, values, label=f"{judged}, averaged net", color="#009E73", marker=".")
    loss.set(ylabel="loss (nats)")
    for way, (label, colour, marker) in WAYS.items():
        values = [record[way]["r_at_1"] for record in records]
        found.plot(x, values, label=label, color=colour, marker=marker, markersize=3)
    chance = 1 / last["gallery"]
    found.axhline(chance, color="#444444", linestyle=":", label=f"chance, 1 of {last['gallery']}")
    found.set(ylabel=f"R@1 ({judged})", ylim=(-0.02, 1.02))
    temperature.plot(x, [record["temperature"] for record in records], color="#CC79A7", marker=".")
    temperature.axhline(START, color="#444444", linestyle=":", label=f"at the start, {START}")
    temperature.set(ylabel="temperature", xlabel="epoch")
    temperature.set_ylim(0, 1.1 * temperature.get_ylim()[1])
    gap.plot(x, [record["gap"] for record in records], color="#E69F00", marker=".")
    gap.set(ylabel=f"norm of the gap ({judged})", xlabel="epoch")
    gap.set_ylim(0, 1.1 * gap.get_ylim()[1])
    temperature.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss, found, temperature):
        axes.legend(frameon=False, fontsize=7)
    pictures.save(fig, path)
