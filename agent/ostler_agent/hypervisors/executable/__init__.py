"""The driver `executable`: a driver in any language, as a program that speaks JSON lines."""
