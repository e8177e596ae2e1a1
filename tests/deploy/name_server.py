"""A name server on loopback that answers for one name with addresses that may change: what a headless Service is to its
clients. Target for gRPC: dns://NAME_SERVER/HOST:PORT."""
import socket
import struct
import threading

A = 1  # the type of an address record


class NameServer:

    def __init__(self):
        self.addresses = []  # IPv4; replaced as a whole
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self.address = "127.0.0.1:%d" % self._socket.getsockname()[1]
        self._closed = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while not self._closed:
            try:
                question, client = self._socket.recvfrom(4096)
            except socket.timeout:
                continue
            if len(question) > 16:
                self._socket.sendto(self._answer(question), client)

    def _answer(self, question):
        end = question.index(b"\0", 12) + 5  # the name, its type and class
        kind = struct.unpack("!H", question[end - 4:end - 2])[0]
        addresses = self.addresses if kind == A else []
        header = question[:2] + struct.pack("!HHHHH", 0x8580, 1, len(addresses), 0, 0)
        record = b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 0, 4)  # the question's name, no time to live
        return header + question[12:end] + b"".join(record + socket.inet_aton(address) for address in addresses)

    def close(self):
        self._closed = True
        self._thread.join()
        self._socket.close()
