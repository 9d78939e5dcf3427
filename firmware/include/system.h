// LiteX includes this from csr.h; nothing of it is needed here.
