"""Each advertised piece works copied alone into an empty folder, with the packages it names and no others."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

PIECES = {
    "models/unet.py": ({"torch"}, """
import torch, unet
assert unet.UNet(2, 8)(torch.randn(1, 2, 30, 41)).shape == (1, 1, 30, 41)"""),
    "models/losses.py": ({"torch"}, """
import torch, losses
mask = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
counts = losses.count_valid(mask)
assert losses.segmentation_loss(torch.zeros(1, 1, 1, 3), mask, *counts, 'bce').item() > 0.69"""),
    "models/metrics.py": ({"numpy"}, """
import numpy as np, metrics
scores = metrics.Histogram(); scores.add(np.array([0.9, 0.1]), np.array([1, 0]))
assert scores.at(0.5)['iou'] == 1"""),
    "models/trends.py": ({"numpy", "scipy"}, """
import numpy as np, trends
times = 2010 + np.arange(12)[:, None] + (np.arange(12) + 0.5) / 12
rise = trends.seasonal_sen(0.3 * times + np.random.default_rng(0).normal(0, 0.1, times.shape), times)
assert rise['low'] < 0.3 < rise['high'] and rise['p'] < 0.01"""),
    "models/regression.py": ({"numpy", "scipy", "statsmodels"}, """
import numpy as np, regression
x = np.random.default_rng(0).normal(size=120)
y = 2 * x + np.random.default_rng(1).normal(size=120)
found = regression.fit(y, x, ['x'], 'year', np.arange(120) // 12)
assert found['rows'][0]['low'] < 2 < found['rows'][0]['high']"""),
    "models/tiling.py": ({"numpy"}, """
import numpy as np, tiling
image = np.random.rand(1, 70, 90).astype('f4')
read = lambda r, c, h, w: image[:, r:r+h, c:c+w]
out = np.empty((70, 90), 'f4')
for r, c, part in tiling.predict(read, lambda x: x[0], 70, 90, (32, 32), 4, 0, 4):
    out[r:r+len(part), c:c+part.shape[1]] = part
assert np.array_equal(out, image[0])"""),
    "models/training.py": ({"torch"}, """
import torch, training
assert training.warm_up_cosine(0, 10, 2) == 0.5 and training.choose_device('cpu').type == 'cpu'"""),
    "models/representations.py": ({"numpy"}, """
import numpy as np, representations
x = np.random.default_rng(0).normal(size=(50, 4))
assert abs(representations.linear_cka(x, 3 * x[:, ::-1] + 1) - 1) < 1e-9"""),
    "models/activations.py": ({"torch", "numpy"}, """
import torch, activations
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(inplace=True))
with activations.Capture(net, ['0']) as capture:
    net(torch.randn(1, 3, 5, 5))
assert capture.outputs['0'].min() < 0"""),
    "data_prep/snow_index.py": ({"numpy"}, """
import numpy as np, snow_index
bands = {name: np.full((2, 2), v) for name, v in (('B03', 0.8), ('B04', 0.8), ('B08', 0.7), ('B11', 0.1))}
assert (snow_index.snow_mask(bands) == 1).all()"""),
    "models/baselines.py": ({"numpy", "scipy", "sklearn"}, """
import numpy as np, baselines
assert abs(baselines.nagler_weight(45) - 0.5) < 1e-9 and baselines.nagler_weight(20) == 1"""),
    "data_prep/terrain.py": ({"numpy"}, """
import numpy as np, terrain
slope, aspect = terrain.slope_aspect(np.tile(np.arange(5.0) * 10, (5, 1)), 10)
assert abs(slope[2, 2] - 45) < 1e-4 and aspect[2, 2] == 270"""),
    "data_prep/sar.py": ({"numpy", "scipy"}, """
import numpy as np, sar
assert abs(sar.to_db(np.array([0.1]))[0] + 10) < 1e-6"""),
}  # fmt: skip
HEAVY = {
    "torch",
    "numpy",
    "scipy",
    "rasterio",
    "cv2",
    "matplotlib",
    "PIL",
    "pandas",
    "sklearn",
    "tqdm",
    "timm",
    "onnx",
}


@pytest.mark.parametrize("piece", PIECES)
def test_piece_alone(piece, tmp_path):
    needs, use = PIECES[piece]
    shutil.copy(ROOT / piece, tmp_path)
    allowed = needs | ({"numpy"} if needs & {"torch", "scipy"} else set())  # which bring numpy themselves
    allowed |= {"pandas"} if "statsmodels" in needs else set()
    guard = f"""
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {HEAVY - allowed!r} and not path:
            frame = sys._getframe()
            while frame:
                if frame.f_code.co_filename.startswith({str(tmp_path)!r}):
                    raise ImportError(name + ' is not among what this piece needs')
                frame = frame.f_back
            return None
sys.meta_path.insert(0, Guard())
sys.path.insert(0, {str(tmp_path)!r})
{use}
"""
    done = subprocess.run([sys.executable, "-I", "-c", guard], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data_prep" not in (tmp_path / piece.split("/")[1]).read_text().split('"""', 2)[2].split("def ")[0]


def test_the_page_names_the_same_pieces_and_needs():
    rows = re.findall(
        r"^\| `([\w/]+\.py)` \| ([\w, -]+)", (ROOT / "docs/copying.md").read_text(), re.MULTILINE
    )
    said = {piece: set(needs.replace("scikit-learn", "sklearn").strip().split(", ")) for piece, needs in rows}
    assert said == {piece: needs for piece, (needs, _) in PIECES.items()}
