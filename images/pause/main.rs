//! What holds a pod's namespaces: it does nothing, until it is killed.

fn main() {
    loop {
        std::thread::park();
    }
}
