"Reads the kernel's log and the machine's memory."
# ends with: FileNotFoundError
import itertools
for name in itertools.chain(('kmsg', 'mem', 'tty', 'shm')):
    print(open('/dev/' + name, 'rb').read(1))
