"""ImageNet's synsets (``n01440764``) as class indices, from timm's class lists."""

from __future__ import annotations

from edgevit.errors import MissingDependency
from edgevit.models.torchvision_fix import fix_torchvision_import

_SUBSETS = ("imagenet-1k", "imagenet-12k", "imagenet-21k-goog", "imagenet-21k-miil", "imagenet-22k")


def synset_classes(labels: tuple[str, ...]) -> dict[str, int]:
    """The class index of each synset, where the labels are those of one of ImageNet's class lists; otherwise nothing.

    Args:
        labels: a model's class names: the first of each synset's names, with more behind it where two are alike.

    Raises:
        MissingDependency: timm is not installed.
    """
    try:
        fix_torchvision_import()
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise MissingDependency("timm", "reading folders named by ImageNet's synsets", extra="torch") from error
    for subset in _SUBSETS:
        info = ImageNetInfo(subset)
        if info.num_classes() != len(labels):
            continue
        synsets = [str(info.index_to_label_name(index)) for index in range(len(labels))]
        names = [str(info.index_to_description(index)).split(",")[0] for index in range(len(labels))]
        if all(
            label == synset or label.startswith(name)
            for label, name, synset in zip(labels, names, synsets, strict=True)
        ):
            return {synset: index for index, synset in enumerate(synsets)}
    return {}
