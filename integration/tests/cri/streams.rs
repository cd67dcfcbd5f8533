//! Exec, Attach and PortForward as a client of the API server has them.

use davit_integration::poll;
use k8s_cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};

use crate::client::{Stream, channel};
use crate::node::{Node, Pod, container};

fn exec(pod: &mut Pod<'_>, id: &str, tty: bool, script: &str) -> Stream {
    let request = ExecRequest {
        container_id: id.to_owned(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    let url = pod.cri.exec(request).expect("Exec").url;
    Stream::open(&pod.node.net, &url, "").expect("stream")
}

pub fn exec_attach_and_port_forward(node: &Node) {
    let mut pod = node.pod("streams");
    let server = pod.script("server", "while :; do nc -l -p 80 -e cat; done");
    let mut stream = exec(&mut pod, &server, false, "read line; echo got $line; echo err >&2; exit 6");
    stream.send(channel::IN, b"a line\n").expect("send");
    let [out, err, result] = stream.rest().expect("rest");
    assert_eq!((out.as_str(), err.as_str()), ("got a line\n", "err\n"), "{result}");
    assert!(result.contains("\"ExitCode\"") && result.contains("\"6\""), "{result}");

    let script = "tty; until [ \"$(stty size)\" = '33 99' ]; do usleep 10000; done; echo sized; read line; echo got $line";
    let mut stream = exec(&mut pod, &server, true, script);
    assert!(stream.read_until(channel::OUT, "/dev/pts/").is_ok());
    stream.send(channel::SIZE, br#"{"Width":99,"Height":33}"#).expect("size");
    stream.read_until(channel::OUT, "sized").expect("size");
    stream.send(channel::IN, b"typed\n").expect("send");
    let [out, _, result] = stream.rest().expect("rest");
    assert!(out.contains("got typed"), "{out}");
    assert!(result.contains("Success"), "{result}");
    // Neither input nor standard output is asked for.
    let request = ExecRequest {
        container_id: server.clone(),
        cmd: ["sh", "-c", "echo out; echo err >&2"].map(str::to_owned).to_vec(),
        stderr: true,
        ..Default::default()
    };
    let url = pod.cri.exec(request).expect("Exec").url;
    let [out, err, result] = Stream::open(&pod.node.net, &url, "").expect("stream").rest().expect("rest");
    assert_eq!((out.as_str(), err.as_str()), ("", "err\n"), "{result}");
    attach(&mut pod);
    attach_to_a_terminal(&mut pod);
    // 80 listens, of either family.
    pod.output(&server, "until grep -q ':0050 .* 0A ' /proc/net/tcp /proc/net/tcp6; do usleep 50000; done");
    port_forward(&mut pod);
    pod.remove();
}

fn attach(pod: &mut Pod<'_>) {
    let mut config = container("attached", &["sh", "-c", "while read line; do echo got $line; done"]);
    config.stdin = true;
    let id = pod.run(config);
    let open = |pod: &mut Pod<'_>| {
        let request =
            AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: true, tty: false };
        let url = pod.cri.attach(request).expect("Attach").url;
        Stream::open(&pod.node.net, &url, "").expect("stream")
    };
    for word in ["one", "two"] {
        let mut stream = open(pod);
        stream.send(channel::IN, format!("{word}\n").as_bytes()).expect("send");
        stream.read_until(channel::OUT, &format!("got {word}")).expect("answer");
    }
    // A client that went away ends nothing.
    poll::until("the log", 30, || pod.log("attached"), |seen| seen.contains("got two"));
    pod.stop(&id, 0);
}

fn attach_to_a_terminal(pod: &mut Pod<'_>) {
    let script = "until [ \"$(stty size)\" = '33 99' ]; do usleep 10000; done; echo sized; read line
        echo got $line; exit 5";
    let mut config = container("terminal", &["sh", "-c", script]);
    (config.stdin, config.tty) = (true, true);
    let id = pod.run(config);
    let request =
        AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: false, tty: true };
    let url = pod.cri.attach(request).expect("Attach").url;
    let mut stream = Stream::open(&pod.node.net, &url, "").expect("stream");
    stream.send(channel::SIZE, br#"{"Width":99,"Height":33}"#).expect("size");
    stream.read_until(channel::OUT, "sized").expect("size");
    stream.send(channel::IN, b"typed\n").expect("send");
    stream.read_until(channel::OUT, "got typed").expect("answer");
    assert_eq!(pod.end(&id).0, 5);
}

fn port_forward(pod: &mut Pod<'_>) {
    let request = PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![80] };
    let url = pod.cri.port_forward(request).expect("PortForward").url;
    let mut stream = Stream::open(&pod.node.net, &url, "?port=80").expect("stream");
    stream.send(0, b"through the tunnel\n").expect("send");
    // The first message of a channel is its port.
    stream.read_until(0, "through the tunnel").expect("the answer");
}
