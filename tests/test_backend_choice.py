"""`--backend` of train and eval: what runs inside, and what is refused before the first frame."""

import pytest
import torch

from kernels.device import DeviceFacts, replaced
from seqformer._kernels import kernels
from seqformer.backend_choice import check_backend, chosen_backend
from seqformer.cli.train import parse
from seqformer.config import ComputeConfig, EvalOptions
from seqformer.trainer.errors import SetupError
from seqformer.trainer.trainer import train
from tests.trainer.tiny import tiny_config

CPU = torch.device("cpu")


def test_the_option_goes_before_the_environment():
    with kernels.use_backend("reference"):  # as the environment variable may say
        with chosen_backend("auto"):
            assert kernels.current_backend() == "auto"
        with chosen_backend(None):
            assert kernels.current_backend() == "reference"
    assert kernels.current_backend() == "auto"


def test_train_and_eval_have_it():
    assert parse(["mini", "--backend", "reference"]).compute.backend == "reference"
    assert ComputeConfig().backend is EvalOptions().backend is None


class NothingInterprets(DeviceFacts):
    """A machine without a GPU and without Triton's interpreter."""

    def can_launch(self, device):
        return False


def test_kernels_without_a_gpu_are_refused_before_the_first_frame(tmp_path):
    check_backend(CPU)
    with replaced(NothingInterprets()):
        with chosen_backend("triton"), pytest.raises(ValueError, match="tensors are on cpu"):
            check_backend(CPU)
        with pytest.raises(SetupError, match="'triton' was asked for"):
            train(tiny_config(tmp_path, backend="triton"))
