"""bench/unet.py on a CUDA device:  python bench/gpu.py  writes bench/results/unet_cuda.json"""

import sys

import unet

if __name__ == "__main__":
    import torch

    if not torch.cuda.is_available():
        print("bench/gpu.py: no CUDA device here.", file=sys.stderr)
        sys.exit(2)
    out = unet.ROOT / "bench" / "results" / "unet_cuda.json"
    sys.exit(
        unet.main(["--device", "cuda", "--batch", "16", "--rounds", "20", "--out", str(out), *sys.argv[1:]])
    )
