"""Common ground of controller and agent: the contract, the shared types, the wire.

``fitment.v1`` holds generated messages, ``fitment.core`` pure types (standard library
only), ``fitment.wire`` what a schema cannot say (topics, envelopes, conversion).
"""

__version__ = "0.1.0"
