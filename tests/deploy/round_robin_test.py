"""Three replicas and clients that balance by themselves, as client/service_config.json tells a gRPC library: our own and
Python's. Calls spread; replicas that are replaced one after another lose none; one that is killed loses only streams
that had brought a message, and is found again."""
import json
import pathlib
import re
import socket
import sys
import time
import unittest

sys.path[:0] = ["tests/deploy", "tests/integration"]
import clients
import name_server
import programs
import tools

HOST = "spotlight-headless.test"


def wait_for(done, what, seconds=60):
    deadline = time.time() + seconds
    while not done():
        if time.time() > deadline:
            raise AssertionError(f"{what} in {seconds} s")
        time.sleep(0.1)


class RoundRobinTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        tools.need("grpcio")

    def setUp(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def start(self, address, *flags):
        """A replica on an address of its own, as a pod has; all listen on one port."""
        server = programs.Server("--listen", f"{address}:{self.port}", *flags)
        self.addCleanup(server.__exit__)
        server.address = address
        return server

    def served(self, server, output_tokens):
        """Whether it has ended a stream of this length well; each client has a length of its own."""
        try:
            return any(line["code"] == "OK" and line.get("completion_tokens") == output_tokens
                       for line in server.request_log())
        except ValueError:  # half a line
            return False

    def wait_until_all_serve(self, servers, lengths):
        wait_for(lambda: all(self.served(server, length) for server in servers for length in lengths),
                 "not every replica serves each client")

    def test_replicas_that_are_replaced_one_after_another_lose_no_call(self):
        names = name_server.NameServer()
        self.addCleanup(names.close)
        servers = [self.start(f"127.0.0.{2 + i}") for i in range(3)]
        for server in servers:
            server.wait_ready()
        names.addresses = [server.address for server in servers]
        target = f"dns://{names.address}/{HOST}:{self.port}"
        with clients.Bench(target, 60) as bench, clients.Grpcio(target, 61) as grpcio:
            self.wait_until_all_serve(servers, (60, 61))
            for i in range(3):
                # As a rolling update of a headless Service: the new pod is ready, then listed, then the old one goes.
                # Without preStop's pause: a client may send to the old one until its health, or its refusal, says no.
                servers.append(self.start(f"127.0.0.{5 + i}").wait_ready())
                names.addresses = [server.address for server in servers[1:]]
                self.assertEqual(servers.pop(0).stop(), 0)
                self.wait_until_all_serve(servers[-1:], (60, 61))
        for client in (bench, grpcio):
            self.assertEqual([call for call in client.calls if call.error], [])
            self.assertGreater(len(client.calls), 3 * clients.NUM_STREAMS)

    def test_a_replica_that_is_killed_loses_only_streams_that_had_brought_a_message(self):
        # One runs, the others wait: most calls of a replica have brought nothing yet.
        flags = ("--max-running", "1")
        servers = [self.start(f"127.0.0.{2 + i}", *flags) for i in range(3)]
        for server in servers:
            server.wait_ready()
        prompt = ("--prompt", "The keeper", "--max-tokens", "20", "--temperature", "0", "--ignore-eos")
        answer = "".join(message.get("text", "") for message in servers[0].generate(*prompt))
        target = "ipv4:" + ",".join(server.grpc for server in servers)
        with clients.Bench(target, 200) as bench, clients.Grpcio(target, 201) as grpcio:
            self.wait_until_all_serve(servers, (200, 201))
            busiest = []

            def one_has_a_queue():
                waiting = [server.metric("spotlight_requests_waiting") for server in servers]
                busiest[:] = [servers[waiting.index(max(waiting))]]
                return max(waiting) >= 4

            wait_for(one_has_a_queue, "no replica had four requests waiting")
            killed = busiest[0]
            killed.process.kill()
            killed.process.wait()
            # At the same address, to the same clients; it has lost nothing that it needs.
            again = self.start(killed.address, *flags).wait_ready()
            self.wait_until_all_serve([again], (200, 201))
            self.assertEqual("".join(message.get("text", "") for message in again.generate(*prompt)), answer)
        lost = [call for client in (bench, grpcio) for call in client.calls if call.error]
        self.assertTrue(all(call.got_output and call.error.startswith("UNAVAILABLE") for call in lost), lost)
        # It ran one, and may have begun the next; of the four that waited at least two were tried again elsewhere.
        self.assertLessEqual(len(lost), 2)

    def test_the_documented_config_is_the_one_in_use(self):
        block = re.search(r"```json\n(.*?)```", pathlib.Path("deploy/README.md").read_text(), re.S).group(1)
        self.assertEqual(json.loads(block), json.loads(clients.SERVICE_CONFIG.read_text()))


if __name__ == "__main__":
    unittest.main()
