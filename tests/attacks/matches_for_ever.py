"Matches a pattern that takes for ever."
# ends with: timeout
import re
re.match('(a+)+$', 'a' * 50 + 'b')
