"""What the tests of `stdio_broker.testing` share."""

import pytest

# As users are told to: else a rule that is broken says nothing but that it is.
pytest.register_assert_rewrite("stdio_broker.testing.contract")
