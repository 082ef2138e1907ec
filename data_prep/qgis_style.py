"""QGIS styles of snow masks and probabilities: two .qml files for a folder of maps.

    qgis_style.write(folder)      # snow_mask.qml, snow_probability.qml

Masks show their colours without them, from the colour table inside; the style adds names to its legend. In
QGIS: select the layers, Layer > Load Layer Style. A style of a raster's own name loads by itself.
"""

from pathlib import Path
from xml.etree import ElementTree as Xml

from data_prep import rasters
from data_prep.runs import write_text

CLASS_NAMES = {0: "snow-free", 1: "snow", 255: "no data"}
# Of probability, which QGIS reads scaled to 0..1: cividis, as in the pictures.
PROBABILITY_COLOURS = {0.0: "#00224e", 0.25: "#414d6b", 0.5: "#7d7c78", 0.75: "#bcaf6f", 1.0: "#fee838"}


def mask_style() -> str:
    """The style of a mask: 0 snow-free, 1 snow, 255 transparent."""
    palette = Xml.Element("colorPalette")
    for value, (*colour, alpha) in rasters.MASK_COLOURS.items():
        Xml.SubElement(
            palette, "paletteEntry", value=str(value), color=as_hex(colour), alpha=str(alpha),
            label=CLASS_NAMES[value],
        )  # fmt: skip
    return document(palette, type="paletted")


def probability_style() -> str:
    """The style of a probability of snow: linear between five colours."""
    shader = Xml.Element("rastershader")
    ramp = Xml.SubElement(
        shader, "colorrampshader", colorRampType="INTERPOLATED", classificationMode="1", clip="0",
        minimumValue="0", maximumValue="1",
    )  # fmt: skip
    for value, colour in PROBABILITY_COLOURS.items():
        Xml.SubElement(ramp, "item", value=str(value), color=colour, alpha="255", label=f"{value:g}")
    return document(shader, type="singlebandpseudocolor", classificationMin="0", classificationMax="1")


def as_hex(colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def document(content: Xml.Element, **renderer: str) -> str:
    """A QML document of a raster renderer of band 1."""
    root = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology")
    pipe = Xml.SubElement(root, "pipe")
    part = Xml.SubElement(
        pipe, "rasterrenderer", band="1", opacity="1", alphaBand="-1", nodataColor="", **renderer
    )
    part.append(content)
    Xml.indent(root, " ")
    doctype = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
    return f"{doctype}\n{Xml.tostring(root, encoding='unicode')}\n"


def write(folder: Path) -> None:
    """Write both styles into a folder."""
    write_text(Path(folder) / "snow_mask.qml", mask_style())
    write_text(Path(folder) / "snow_probability.qml", probability_style())
