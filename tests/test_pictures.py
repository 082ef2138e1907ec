from data_prep import pictures


def test_logarithmic_axes_say_plain_numbers():
    fig = pictures.figure(4, 3)
    axes = fig.add_subplot()
    axes.set_yscale("log")
    axes.set_ylim(0.000002, 3000000)
    pictures.plain_log(axes.yaxis)
    fig.canvas.draw()
    low, high = axes.get_ylim()
    ticks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    shown = {tick: label.get_text() for tick, label in ticks if low <= tick <= high and label.get_text()}
    assert len(shown) > 3
    assert all(float(text) == tick for tick, text in shown.items())
    assert not [text for text in shown.values() if set(text) - set("0123456789.")]
