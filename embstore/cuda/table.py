"""x"""


class GpuTable: ...


def to_device(): ...
