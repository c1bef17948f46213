"Gives a library another name (its own, so that nothing breaks)."
# ends with: Read-only file system
import os
os.rename(os.__file__, os.__file__ + '.attack')
os.rename(os.__file__ + '.attack', os.__file__)
