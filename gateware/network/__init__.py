"""The board's network side: frames in, datagrams and Etherbone records done, answers out.

``receive`` lets whole and sound frames in only, ``engine`` does what they ask, ``direct`` writes
what they carry to DDR, ``claim`` says who may ask, ``answer`` writes the heads of answers,
``transmit`` sends.
"""

__all__: list[str] = []
