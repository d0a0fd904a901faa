"""python eval/finetune.py run=runs/a: accuracy after fine-tuning all weights, into eval/finetune.json."""

import sys

from ssl_kd.cli import probe
from ssl_kd.errors import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda words: probe("finetune", words), sys.argv[1:]))
