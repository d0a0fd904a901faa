"""The commands around a training: what each is called and takes, its help and completion, and the small ones.

Nothing that a help page or a completion needs imports torch, hydra or rich.
"""
