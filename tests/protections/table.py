"""Every protection, by area; names are unique."""

from tests.protections import data, evidence, promotion, serving, stack
from tests.protections.protection import Protection

PROTECTIONS: list[Protection] = [
    protection for area in (serving, data, evidence, promotion, stack) for protection in area.PROTECTIONS
]
