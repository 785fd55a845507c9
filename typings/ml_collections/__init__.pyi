# A config's fields are whatever its file wrote; ml_collections would call each of them a union.
from typing import Any

from ml_collections import config_dict as config_dict

class ConfigDict(Any): ...
class FieldReference(Any): ...
