"Lists what its user keeps at home."
# ends with: error
import os
assert set(os.listdir(HOME)) - {'.pyenv'}
