"Asks the name service for an address."
# ends with: gaierror
import socket
socket.getaddrinfo('example.org', 80)
