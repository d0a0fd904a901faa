"""Loaders: which images come when, whatever the number of processes, the start, and where they are kept."""

import signal
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_kd.data.folders import folder
from ssl_kd.data.loaders import Batches, in_order, resident
from ssl_kd.data.sources import Arrays
from ssl_kd.data.workers import decoding_processes, decoding_threads
from ssl_kd.errors import InputError

# Python 3.12 and 3.13 warn of any fork beside torch's threads; a worker uses none of them.
forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Counting:
    """A source of the user's own: image i is filled with i; it counts how often each is decoded."""

    shape = (3, 4, 4)
    classes = ("even", "odd")

    def __init__(self, n=50, labels=True):
        self.labels = np.arange(n) % 2 if labels else None
        self.decoded = np.zeros(n, dtype=int)

    def __len__(self):
        return len(self.decoded)

    def __getitem__(self, i):
        self.decoded[i] += 1
        return np.full(self.shape, i, dtype=np.uint8)


class Threads(Counting):
    """Every image is filled with the number of threads of the process that decodes it."""

    def __getitem__(self, i):
        return np.full(self.shape, torch.get_num_threads(), dtype=np.uint8)


class Interrupts(Counting):
    """Every image is filled with 1 in a process that Ctrl-C does not end."""

    def __getitem__(self, i):
        return np.full(self.shape, signal.getsignal(signal.SIGINT) == signal.SIG_IGN, dtype=np.uint8)


def first(n, *args, start=0, **kwargs):
    return list(islice(Batches(*args, **kwargs)(start), n))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys() and a["rows"] == b["rows"]
        assert all(torch.equal(a[key], b[key]) for key in ("image", "label", "index", "row"))


def test_a_raw_batch_is_what_the_recipes_expect():
    (batch,) = first(1, Counting(), 8)
    assert set(batch) == {"image", "label", "index", "row", "rows"} and batch["rows"] == 8
    assert batch["image"].shape == (8, 3, 4, 4) and batch["image"].dtype == torch.uint8
    assert torch.equal(batch["image"][:, 0, 0, 0].long(), batch["index"])
    assert torch.equal(batch["label"], batch["index"] % 2) and batch["label"].dtype == torch.int64
    assert torch.equal(batch["row"], torch.arange(8))


def test_an_epoch_shows_every_image_at_most_once_and_the_next_one_in_another_order():
    batches = Batches(Counting(50), 8, seed=3)
    assert batches.steps_per_epoch == 6
    epochs = [torch.cat([b["index"] for b in islice(batches(start), 6)]) for start in (0, 6)]
    assert all(len(set(epoch.tolist())) == 48 for epoch in epochs)
    assert not torch.equal(*epochs)
    assert not torch.equal(first(1, Counting(50), 8, seed=4)[0]["index"], epochs[0][:8])


@pytest.mark.parametrize("start", [1, 5, 6, 13])
@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
def test_starting_at_a_step_gives_the_tail_of_the_run_from_0(start, resident_bytes):
    options = dict(resident_bytes=resident_bytes, workers=0)
    whole = first(20, Counting(), 8, **options)
    assert_same(first(20 - start, Counting(), 8, start=start, **options), whole[start:])


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batch_that_one_process_has(world):
    whole = first(8, Counting(), 8)
    shares = [first(8, Counting(), 8, rank=rank, world=world) for rank in range(world)]
    for k, batch in enumerate(whole):
        for key in ("image", "label", "index", "row"):
            assert torch.equal(torch.cat([share[k][key] for share in shares]), batch[key])
        assert all(share[k]["rows"] == 8 for share in shares)


@forking
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_the_resident_ones(workers):
    source = Counting()
    streamed = first(9, source, 8, start=2, resident_bytes=0, workers=workers, rank=1, world=2)
    assert not hasattr(source, "_resident")
    assert_same(streamed, first(9, Counting(), 8, start=2, rank=1, world=2))


@forking
def test_worker_processes_have_one_thread_each():
    (batch,) = first(1, Threads(), 8, resident_bytes=0, workers=1)
    assert (batch["image"] == 1).all()


@forking
def test_worker_processes_leave_ctrl_c_to_the_main_one():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        (batch,) = first(1, Interrupts(), 8, resident_bytes=0, workers=1)
        assert (batch["image"] == 1).all()
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "cores, local, threads, processes",
    [
        (1, None, 1, 1),
        (2, None, 2, 1),
        (2, 2, 1, 1),
        (4, None, 4, 3),
        (8, 2, 4, 3),
        (96, 4, 24, 8),
        (2, 8, 1, 1),
    ],
)
def test_threads_and_processes_suit_the_cores(monkeypatch, cores, local, threads, processes):
    monkeypatch.setattr("ssl_kd.data.workers.cores", lambda: cores)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    assert (decoding_threads(), decoding_processes()) == (threads, processes)


@forking
def test_without_a_number_there_is_a_worker_process():
    source = Counting()
    (batch,) = first(1, source, 8, resident_bytes=0)
    assert torch.equal(batch["image"][:, 0, 0, 0].long(), batch["index"]) and source.decoded.sum() == 0


@forking
@pytest.mark.parametrize("workers", [0, 2])
def test_loading_draws_nothing_from_the_runs_own_random_stream(workers):
    state = torch.get_rng_state()
    first(2, Counting(), 8)
    first(2, Counting(), 8, resident_bytes=0, workers=workers)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_fits_is_decoded_once_for_the_loader_and_the_probes():
    source = Counting()
    first(20, source, 8)
    list(in_order(source, 7))
    assert torch.equal(resident(source, workers=2), resident(source))
    assert (source.decoded == 1).all()


def test_what_does_not_fit_is_decoded_when_it_is_needed():
    source = Counting()
    first(2, source, 8, start=3, resident_bytes=50 * 48 - 1, workers=0)
    assert source.decoded.sum() == 16


@forking
def test_a_source_may_say_itself_what_fits():
    source = Counting()
    source.resident_bytes = 50 * 48 - 1
    first(2, source, 8, workers=0)
    assert source.decoded.sum() == 16
    batches = list(in_order(source, 8))
    assert torch.equal(torch.cat([images for images, _ in batches])[:, 0, 0, 0].long(), torch.arange(50))
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(50) % 2)
    assert source.decoded.sum() == 16  # the probes' images were decoded in other processes
    first(1, source, 8, resident_bytes=50 * 48)
    assert (source.decoded >= 1).all()


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_threads_put_every_image_in_its_place(workers):
    source = Counting(250)
    assert torch.equal(resident(source, workers)[:, 0, 0, 0].long(), torch.arange(250))
    assert (source.decoded == 1).all()


def test_of_several_failures_the_first_is_raised():
    class Broken(Counting):
        def __getitem__(self, i):
            if i in (40, 41, 200):
                raise InputError(f"image {i}")
            return super().__getitem__(i)

    with pytest.raises(InputError, match="image 40"):
        resident(Broken(250), workers=4)


def test_arrays_that_do_not_fit_are_not_sent_to_processes(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4), np.uint8)
    monkeypatch.setattr("os.fork", None)
    streamed = first(9, Arrays(images), 8, resident_bytes=0)
    assert_same(streamed, first(9, Arrays(images), 8))


def test_arrays_are_resident_without_a_copy_and_read_only_ones_with_one():
    source = Arrays(np.zeros((5, 1, 2, 2), dtype=np.uint8))
    assert resident(source).data_ptr() == source.images.ctypes.data
    source = Arrays(np.broadcast_to(np.uint8(7), (5, 1, 2, 2)))
    assert (resident(source) == 7).all()


def test_in_order_gives_every_image_once_and_the_last_batch_as_it_is():
    batches = list(in_order(Counting(20), 8))
    assert [len(images) for images, _ in batches] == [8, 8, 4]
    assert torch.equal(torch.cat([images for images, _ in batches])[:, 0, 0, 0].long(), torch.arange(20))
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(20) % 2)


def test_images_without_labels_have_label_minus_1():
    assert (first(1, Counting(labels=False), 8)[0]["label"] == -1).all()
    assert all((labels == -1).all() for _, labels in in_order(Counting(labels=False), 8))


@pytest.mark.parametrize(
    "batch_size, world, sentence",
    [
        (51, 1, "a batch of 51 images is larger than the data set of 50"),
        (9, 2, "a batch of 9 images cannot be shared equally by 2 processes"),
        (0, 1, "a batch of 0 images cannot be shared"),
    ],
)
def test_a_batch_size_that_cannot_be_is_refused(batch_size, world, sentence):
    with pytest.raises(InputError, match=sentence):
        Batches(Counting(), batch_size, world=world)


@pytest.mark.parametrize("workers", [-1, "many"])
def test_a_number_of_workers_that_cannot_be_is_refused(workers):
    with pytest.raises(InputError, match=f"workers must be a whole number from 0 on, not {workers}"):
        Batches(Counting(), 8, workers=workers)


def test_labels_that_are_not_one_per_image_are_refused():
    source = Counting()
    source.labels = source.labels[:-1]
    with pytest.raises(InputError, match=r"50 images need 50 integer labels, not int64 \(49,\)"):
        Batches(source, 8)
    with pytest.raises(InputError, match="need 50 integer labels"):
        next(in_order(source, 8))


@forking
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_named_before_training_or_by_the_stream(tmp_path, workers):
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.jpg")
    broken = tmp_path / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:-500])
    sentence = rf"^{broken} cannot be decoded \([^\n]*truncated[^\n]*\)$"
    with pytest.raises(InputError, match=sentence):
        Batches(folder(tmp_path, 32).train, 2, workers=workers)
    with pytest.raises(InputError, match=sentence):
        list(islice(Batches(folder(tmp_path, 32).train, 2, workers=workers, resident_bytes=0)(0), 3))
