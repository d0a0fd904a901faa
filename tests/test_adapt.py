"""Transfer data: other channels, parts and splits of sources, read as the loaders read any other."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_kd.data.adapt import Recoloured, Subset, as_channels, hold_out, subset
from ssl_kd.data.folders import folder
from ssl_kd.data.loaders import Batches, in_order, resident
from ssl_kd.data.sources import Arrays, Data, Encoded, Source, digits
from ssl_kd.errors import InputError

# Python 3.12 and 3.13 warn of any fork beside torch's threads; a worker uses none of them.
forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Numbered:
    """A source of the user's own: image i is filled with i; it counts how often each is decoded."""

    shape = (3, 4, 4)
    classes = ("even", "odd")

    def __init__(self, n: int = 50, labels: bool = True, channels: int = 3):
        self.shape = (channels, 4, 4)
        self.labels = np.arange(n) % 2 if labels else None
        self.decoded = np.zeros(n, dtype=int)

    def __len__(self):
        return len(self.decoded)

    def __getitem__(self, i):
        self.decoded[i] += 1
        return np.full(self.shape, i, dtype=np.uint8)


def numbers(source: Source) -> list[int]:
    """Which images of `Numbered` are in a source."""
    return [int(source[i][0, 0, 0]) for i in range(len(source))]


def stacked(source: Source) -> np.ndarray:
    return np.stack([source[i] for i in range(len(source))])


def colours(n: int = 6, edge: int = 40, seed: int = 0) -> Arrays:
    images = np.random.default_rng(seed).integers(0, 256, (n, 3, edge, edge), dtype=np.uint8)
    return Arrays(images, np.arange(n) % 2, ("a", "b"))


@pytest.fixture
def photos(tmp_path):
    """Twelve PNG files in two classes."""
    for i, image in enumerate(colours(12, 16).images):
        place = tmp_path / "photos" / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{i}.png")
    return tmp_path / "photos"


# Channels


def test_grey_becomes_rgb_by_repeating():
    grey = digits(limit=20).train
    colour = as_channels(grey, 3)
    assert colour.shape == (3, 8, 8) and len(colour) == 20
    assert np.array_equal(stacked(colour), np.repeat(grey.images, 3, axis=1))
    assert stacked(colour).dtype == np.uint8


def test_rgb_becomes_grey_as_pillow_does_it_to_the_bit():
    colour = colours(4, 256)
    grey = as_channels(colour, 1)
    assert grey.shape == (1, 256, 256)
    for i in range(4):
        expected = np.asarray(Image.fromarray(colour[i].transpose(1, 2, 0)).convert("L"))
        assert grey[i].dtype == np.uint8 and np.array_equal(grey[i][0], expected)


def test_a_repeated_grey_image_comes_back_as_it_was():
    grey = digits(limit=20).train
    assert np.array_equal(stacked(as_channels(as_channels(grey, 3), 1)), grey.images)


def test_a_source_that_has_the_channels_already_is_handed_back():
    source = colours()
    assert as_channels(source, 3) is source


def test_labels_and_classes_stay_when_the_channels_change():
    source = as_channels(colours(), 1)
    assert np.array_equal(source.labels, [0, 1] * 3) and source.classes == ("a", "b")
    assert as_channels(Numbered(labels=False), 1).labels is None


@pytest.mark.parametrize(("have", "wanted"), [(1, 2), (3, 4), (4, 3), (2, 1)])
def test_other_channels_are_refused(have, wanted):
    with pytest.raises(InputError, match=f"^images of {have} channel.* images of {wanted} channel.*RGB"):
        as_channels(Numbered(channels=have), wanted)


def test_nothing_is_decoded_before_an_image_is_asked_for_and_then_once():
    source = Numbered(10)
    parts = hold_out(Data(as_channels(source, 1)), 0.3, seed=0)
    assert source.decoded.sum() == 0
    for part in (parts.train, parts.test, parts.train):
        resident(part)
    assert (source.decoded == 1).all()


def test_what_a_source_holds_decoded_is_not_decoded_again():
    source = Numbered(10)
    images = resident(source)
    grey = as_channels(subset(source, [7, 2]), 1)
    assert numbers(grey) == [7, 2] and torch.equal(images[7, :1], torch.from_numpy(grey[0]))
    assert (source.decoded == 1).all()


# Subsets


@pytest.mark.parametrize("source", [Numbered(8), as_channels(Numbered(8), 1), subset(Numbered(20), range(8))])
def test_a_subset_holds_the_images_and_labels_at_the_positions_in_their_order(source):
    part = subset(source, [5, 0, 3, 3])
    assert numbers(part) == [5, 0, 3, 3] and list(part.labels) == [1, 0, 1, 1]
    assert part.shape == source.shape and part.classes == ("even", "odd")


def test_positions_may_be_a_list_a_range_an_array_or_a_tensor():
    source = Numbered(8)
    for positions in ([2, 3], range(2, 4), np.array([2, 3]), torch.tensor([2, 3])):
        assert numbers(subset(source, positions)) == [2, 3]


def test_a_subset_of_arrays_is_arrays_and_one_of_files_reads_the_same_files(photos):
    arrays = colours()
    part = subset(arrays, [4, 1])
    assert isinstance(part, Arrays) and np.array_equal(part.images, arrays.images[[4, 1]])
    files = folder(photos, 16).train
    part = subset(subset(files, [9, 4, 1]), [2, 0])
    assert isinstance(part, Encoded) and part.stored is files.stored
    assert [part.name(i) for i in range(2)] == [files.name(1), files.name(9)]
    assert np.array_equal(part[1], files[9]) and part.labels[1] == files.labels[9]


def test_files_that_were_decoded_to_find_broken_ones_stay_decoded_in_a_subset(photos):
    (photos / "class0" / "10.png").write_bytes(b"no image")
    files = folder(photos, 16, skip_broken=True).train
    part = subset(files, [6, 2])
    assert len(part.skipped) == 1 and torch.equal(part._resident, files._resident[[6, 2]])
    assert np.array_equal(resident(part)[0].numpy(), files[6])


def test_the_limit_for_held_images_and_the_skipped_ones_stay_known():
    source = Numbered()
    source.resident_bytes, source.skipped = 77, ["broken.png"]
    for part in (as_channels(source, 1), subset(source, [1, 2]), as_channels(subset(source, [1]), 1)):
        assert part.resident_bytes == 77 and part.skipped == ["broken.png"]


@pytest.mark.parametrize(
    ("positions", "sentence"),
    [
        ([], "at least one"),
        ([[1, 2]], r"\(1, 2\)"),
        ([0.5], "integers"),
        ([True, False], "integers"),
        ([-1, 2], "no image -1"),
        ([3, 50], "no image 50 in a source of 50"),
    ],
)
def test_positions_that_mean_nothing_are_refused(positions, sentence):
    with pytest.raises(InputError, match=sentence):
        subset(Numbered(50), positions)


# Held out


@pytest.mark.parametrize("labels", [True, False])
def test_train_and_held_out_test_are_disjoint_and_cover_the_old_train_split(labels):
    data = hold_out(Data(Numbered(50, labels), test=Numbered(7)), 0.2, seed=0)
    train, test = numbers(data.train), numbers(data.test)
    assert len(test) == 10 and sorted(train + test) == list(range(50))
    assert train == sorted(train) and test == sorted(test)
    if labels:
        assert list(data.test.labels) == [i % 2 for i in test]
        assert list(data.train.labels) == [i % 2 for i in train]
    else:
        assert data.train.labels is None and data.test.labels is None


def test_the_old_test_split_is_not_in_the_result():
    data = Data(Arrays(np.zeros((20, 1, 4, 4), np.uint8)), Arrays(np.ones((9, 1, 4, 4), np.uint8)))
    held = hold_out(data, 0.5, seed=0)
    assert held.train.images.max() == held.test.images.max() == 0


def test_the_same_seed_holds_out_the_same_images_another_seed_others():
    choices = [numbers(hold_out(Data(Numbered()), 0.2, seed).test) for seed in (0, 0, 1)]
    assert choices[0] == choices[1] != choices[2]


def test_a_larger_share_holds_out_the_images_of_a_smaller_one_too():
    small, large = (set(numbers(hold_out(Data(Numbered()), share, 0).test)) for share in (0.1, 0.5))
    assert small < large


def test_the_choice_depends_on_the_number_of_images_alone():
    plain, grey = Numbered(), Numbered(labels=False, channels=1)
    assert numbers(hold_out(Data(plain), 0.2, 3).test) == numbers(hold_out(Data(grey), 0.2, 3).test)


@pytest.mark.parametrize(
    ("share", "sentence"),
    [
        (0.0, "between 0 and 1, not 0.0"),
        (1.0, "between 0 and 1"),
        (-0.1, "between 0 and 1"),
        (float("nan"), "between 0 and 1, not nan"),
        (0.001, "leaves no test images"),
        (0.999, "leaves no train images"),
    ],
)
def test_a_share_that_leaves_nothing_is_refused(share, sentence):
    with pytest.raises(InputError, match=sentence):
        hold_out(Data(Numbered(50)), share, seed=0)


# With the loaders


@pytest.fixture(params=["arrays", "files", "numbered"])
def held(request, photos) -> Data:
    """The three kinds of source, one image in three held out, made grey."""
    source = {"arrays": lambda: colours(12, 16), "files": lambda: folder(photos, 16).train}
    parts = hold_out(Data(source.get(request.param, lambda: Numbered(12))()), 1 / 3, seed=0)
    return Data(as_channels(parts.train, 1), as_channels(parts.test, 1))


def test_loaders_read_adapted_sources_held_in_memory(held):
    expected = torch.from_numpy(stacked(held.test))
    images, labels = zip(*in_order(held.test, 3), strict=True)
    assert torch.equal(torch.cat(images), expected)
    assert torch.equal(torch.cat(labels), torch.from_numpy(held.test.labels))
    (batch,) = islice(Batches(held.train, 4)(0), 1)
    assert torch.equal(batch["image"], torch.from_numpy(stacked(held.train))[batch["index"]])


@forking
def test_worker_processes_read_what_is_read_in_memory(held):
    streamed, kept = (
        list(islice(Batches(held.train, 4, resident_bytes=limit, workers=1)(0), 3)) for limit in (0, None)
    )
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(streamed, kept, strict=True))


def test_adapted_sources_survive_pickling(held):
    for part in (held.train, held.test, subset(held.train, [1, 0])):
        again = pickle.loads(pickle.dumps(part))
        assert np.array_equal(stacked(again), stacked(part)) and np.array_equal(again.labels, part.labels)


def test_wrappers_are_not_piled_up():
    part = subset(as_channels(subset(Numbered(), range(30)), 1), range(5))
    assert isinstance(part, Recoloured) and isinstance(part.source, Subset)
    assert isinstance(part.source.source, Numbered)
