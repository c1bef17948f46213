"Doubles a text for ever."
# ends with: limit MemoryError
text = 'a'
while len(text) < 2**32:
    text += text
