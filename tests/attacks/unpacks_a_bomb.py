"Unpacks a small parcel that holds 600 MB."
# ends with: limit MemoryError
import gzip
gzip.decompress(gzip.compress(bytes(2**20)) * 600)
