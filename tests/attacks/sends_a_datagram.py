"Sends a datagram to a public address."
# ends with: Network is unreachable
import socket
socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53))
