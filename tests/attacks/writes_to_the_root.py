"Leaves a file in the root folder."
# ends with: Read-only file system
open('/attack_was_here', 'w')
