"""Patterns of valid text, and the remedies for invalid text."""

NAME = r"^[a-z0-9][a-z0-9-]{0,118}$"  # a pipeline's name, `backdrop-NAME`, has at most 128 characters in KFP
SIZE = r"^[1-9]\d{0,4}x[1-9]\d{0,4}$"
SHA256 = r"^[0-9a-f]{8,64}$"
ARCHITECTURE = r"^[a-z0-9_]+$"

EXAMPLES = {
    NAME: "Use at most 119 lowercase letters, digits and hyphens",
    SIZE: "Write it as WxH, such as 768x512",
    SHA256: "Write its first 8 to 64 hexadecimal digits, in quotes",
    ARCHITECTURE: "Write one of timm.list_models(), such as convnext_tiny",
}
