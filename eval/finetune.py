"""python eval/finetune.py run=runs/a: accuracy after fine-tuning all weights, into eval/finetune.json."""

import sys

from ssl_kd.cli import script

if __name__ == "__main__":
    sys.exit(script("finetune"))
