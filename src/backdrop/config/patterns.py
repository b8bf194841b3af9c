"""Patterns of valid text, and the remedies for invalid text."""

NAME = r"^[a-z0-9][a-z0-9-]*$"
SIZE = r"^[1-9]\d*x[1-9]\d*$"
SHA256 = r"^[0-9a-f]{8,64}$"

EXAMPLES = {
    NAME: "Use lowercase letters, digits and hyphens",
    SIZE: "Write it as WxH, such as 768x512",
    SHA256: "Write its first 8 to 64 hexadecimal digits, in quotes",
}
