"Climbs out of its folder by a path of dots."
# ends with: FileNotFoundError
print(open('/tmp' + '/..' * 40 + ROOT + '/settings.ini').read())
