//! What a story has done by a process of its own: `guest-stories --TOOL ARGUMENT...`.

mod rdma;
mod set_vf;
mod vfio;

use std::process::ExitCode;

/// Runs a tool if the arguments name one.
pub fn run(arguments: &[String]) -> Option<ExitCode> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["--set-vf", pf, vf, setting] => set_vf::set_vf(pf, vf, setting),
        ["--move-rdma", name, netns] => rdma::move_to(name, netns),
        ["--read-vfio", group, pci] => vfio::read_configuration(group, pci),
        ["--open-made", name] => vfio::open_made(name),
        _ => return None,
    };
    Some(match done {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    })
}
