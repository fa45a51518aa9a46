"""What every test shares: one thread, and generated inputs that are the same on every run."""

import hypothesis
import pytest
import torch

# Tests run side by side, one process a core; more threads each would only fight over the cores.
torch.set_num_threads(1)

# No deadline (the first example pays for imports), and the same examples everywhere: a failure seen once can
# be seen again.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="module")
def float64():
    """Float64 by default in a module: `pytestmark = pytest.mark.usefixtures("float64")`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
