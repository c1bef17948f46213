"Nests a value so deep that the interpreter's own stack overflows."
# ends with: error
value = None
for _ in range(10**6):
    value = (value,)
hash(value)
