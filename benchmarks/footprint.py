"""What `ssl-kd doctor` estimates against what a run of the same options takes: the peak of the whole process.

python benchmarks/footprint.py [NUMBER ...]     one JSON line per case, of all or of these
"""

import json
import re
import subprocess
import sys
import tempfile

QUICK = ["epochs=1", "probe.baselines=false", "probe.linear=false", "tracker=none"]
CASES = [
    ["method=dogo", "epochs=1"],
    ["method=simclr", "peers=[resnet8]", "batch_size=1024", "data.limit=1024", *QUICK],
    ["method=ssl_kd", "batch_size=256", *QUICK],
    [
        "method=simclr",
        "peers=[mobilenetv3_small_100]",
        "data.size=32",
        "batch_size=128",
        "data.limit=256",
        *QUICK,
    ],
    ["method=simclr", "peers=[resnet18]", "data.size=32", "batch_size=128", "data.limit=256", *QUICK],
    [
        "method=simclr",
        "peers=[vit_tiny_patch16_224]",
        "data.size=32",
        "batch_size=256",
        "data.limit=512",
        *QUICK,
    ],
    ["method=dogo", "peers=[resnet20,wrn-16-2]", "data.size=32", "batch_size=256", "data.limit=512", *QUICK],
    ["method=dogo", "accumulate=4", "grad_cache=true", "batch_size=512", "data.limit=512", *QUICK],
    ["method=moco", "batch_size=256", "data.limit=512", *QUICK],
    ["method=dogo", "precision=float32", "batch_size=256", "data.limit=512", *QUICK],
]
RUN = (
    "import resource, sys; from ssl_kd.cli import main; code = main(sys.argv[1:]);"
    "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024); sys.exit(code)"
)


def said(*words: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", RUN, *words, "run=a"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def measure(words: list[str]) -> dict[str, object]:
    number, unit = re.search(r"about ([\d.]+) (\w+) at the peak", said("doctor", *words)).groups()  # type: ignore[union-attr]
    estimated = float(number) * {"MiB": 1, "GiB": 1024}[unit]
    real = float(re.search(r"peak ([\d.]+)", said("train", *words))[1])  # type: ignore[index]
    return {
        "options": " ".join(words),
        "estimated": round(estimated),
        "real": round(real),
        "ratio": round(estimated / real, 2),
    }


if __name__ == "__main__":
    for number in map(int, sys.argv[1:] or range(len(CASES))):
        print(json.dumps(measure(CASES[number])), flush=True)
