"""Weights and padding of the networks that stems are cut from, before they are cut."""

from __future__ import annotations

from timm.layers import Conv2dSame
from torch import Tensor, nn

from hybridvideo.config.model import StemConfig
from hybridvideo.errors import UserError
from hybridvideo.models.state_files import check_finite, read_state_dict


def prepare_trunk(model: nn.Module, config: StemConfig) -> None:
    """Load weights and set padding on the complete classification network, so that all keys are checked."""
    if config.weights is not None and config.weights != "hub":
        load_trunk(model, config.weights, config.name)
    if config.padding == "same":
        pad_like_tensorflow(model)


def load_trunk(model: nn.Module, source: str, name: str) -> None:
    """Load a state-dict file; only the classifier may have another size."""
    state = read_state_dict(source)
    own = model.state_dict()
    differing = [key for key in own if key in state and own[key].shape != state[key].shape]
    classes = classes_of(model)
    head = {key for key in differing if of_other_classes(own[key], state[key], classes)}
    wrong = [key for key in differing if key not in head]
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    if wrong or missing or unexpected:
        what = f"{len(missing)} missing, {len(unexpected)} unexpected, {len(wrong)} of another shape"
        first = (missing + unexpected + wrong)[0]
        raise UserError(f"{source} does not fit {name}: {what} (first: {first}); give weights of that model")
    check_finite(state, source)
    model.load_state_dict({key: value for key, value in state.items() if key not in head}, strict=False)


def of_other_classes(own: Tensor, other: Tensor, classes: int) -> bool:
    """Return whether two tensors of a classifier differ in the number of classes alone."""
    return own.ndim == other.ndim > 0 and own.shape[0] == classes and own.shape[1:] == other.shape[1:]


def classes_of(model: nn.Module) -> int:
    """Return the outputs of a classification network's last layer with a matrix."""
    matrices = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return matrices[-1].shape[0] if matrices else 0


def pad_like_tensorflow(model: nn.Module) -> None:
    """Replace each strided convolution by one with TensorFlow's `same` padding: the odd pixel goes right and down."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and max(child.stride) > 1 and max(child.kernel_size) > 1:
                same = Conv2dSame(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,
                    child.stride,
                    dilation=child.dilation,
                    groups=child.groups,
                    bias=child.bias is not None,
                )
                same.load_state_dict(child.state_dict())
                setattr(module, name, same)
