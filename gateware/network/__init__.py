"""The board's network side: frames in, datagrams and Etherbone records done, answers out.

``receive`` lets whole and sound frames in only, ``engine`` does what they ask, ``claim`` says who
may ask, ``transmit`` sends.
"""

__all__: list[str] = []
