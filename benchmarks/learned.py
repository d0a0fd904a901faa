"""One line per peer of finished runs: kNN 20 beside the untrained network's, and RankMe beside the width.

    python benchmarks/learned.py runs/*

RankMe (Garrido et al. 2023) is the effective rank of the embeddings of 2,048 train images.
"""

import sys

from ssl_kd import load
from ssl_kd.evaluate import Evaluator
from ssl_kd.saved import read_scores


def main(folders: list[str]) -> None:
    print("| run | peer | kNN 20 | untrained | RankMe | width | share |\n|---|---|---|---|---|---|---|")
    for folder in folders:
        run = load(folder)
        run.cohort.eval()
        said = read_scores(run.run.folder / "summary.json")
        ranks = Evaluator(run.config, run.data).ranks(run.cohort)
        for name, rank in ranks.items():  # of those that learn
            width = run.encoders[name].backbone.width
            knn = [part[name]["knn"]["20"] for part in (said["peers"], said["baselines"]["untrained"])]
            scores = f"{100 * knn[0]:.1f} | {100 * knn[1]:.1f} | {rank:.0f} | {width} | {rank / width:.0%}"
            print(f"| {folder} | {name} | {scores} |")


if __name__ == "__main__":
    main(sys.argv[1:])
