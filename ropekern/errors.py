"""The one exception this package adds."""


class UnsupportedError(NotImplementedError):
    """A backend is absent or cannot do this case; another backend can.

    It is a NotImplementedError so that harnesses that know that as "not applicable" treat it so.
    """
