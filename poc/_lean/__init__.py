"""What a start needs of `json`, `signal`, `socket` and `contextlib`, under their names and as documented there.

The standard modules are Python around C. Their Python halves import enum, re, selectors and functools, and turn some
400 constants into members of enums: 10 ms, longer than the interpreter itself takes to start. Here are the C halves,
and of the rest the few lines that are used. Constants and signals are plain integers.
"""
