"Fills the folder for temporary files (64 MB at most)."
# ends with: No space left on device
for n in range(64):
    open(f'/tmp/attack-{n}', 'wb').write(b'x' * 2**20)
