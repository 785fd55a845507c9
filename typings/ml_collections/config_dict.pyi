from typing import Any

from ml_collections import ConfigDict as ConfigDict
from ml_collections import FieldReference as FieldReference

placeholder: Any
required_placeholder: Any
