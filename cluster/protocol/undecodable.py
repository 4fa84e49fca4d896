"""What msgspec raises for bytes that are not what they should be.

Owns the list alone: text that is not UTF-8 and nesting without end have classes of their own, so
whoever decodes what others wrote catches all of `UNDECODABLE`, and says nothing of the content.
"""

from typing import Final

import msgspec

UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
