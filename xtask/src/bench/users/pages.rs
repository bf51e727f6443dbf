//! Pages: what the first one of a list costs, and one far behind it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::crowd::{self, Order, cursor, email};
use crate::drill::wire::Wire;
use crate::{Doing as _, Failure, Outcome};

/// Users on a page, the most there may be.
pub(super) const PAGE: u64 = 100;
/// The page that is compared with the first one, or the last full one where there are fewer.
const FAR: u64 = 10_000;
/// How often each page is asked for, in turns; the median counts.
const LOOKS: usize = 201;
/// Longest silence within an export.
const PATIENCE: Duration = Duration::from_secs(30);

/// A list, and its query without a cursor.
const LISTS: [(&str, &str, Order); 3] = [
    ("all, by id", "", Order::Id),
    ("emails that begin with `user`", "&email=user", Order::Email),
    ("names that begin with `user`", "&name=user", Order::Name),
];

/// Prints the medians of both pages of each list, and their ratio.
pub(super) fn compare(address: SocketAddr, users: u64) -> Outcome {
    let far = FAR.min(users / PAGE);
    println!("  {PAGE} users on a page, medians of {LOOKS}:       page 1    page {far}    ratio");
    for (name, query, order) in LISTS {
        let mut wire = Wire::to_admin(address);
        let begin = (far - 1) * PAGE;
        let first = format!("/users?limit={PAGE}{query}");
        let last = match begin.checked_sub(1) {
            Some(before) => {
                let number = place(order, before, users);
                format!("{first}&after={}", cursor(order, number, &id(&mut wire, number)?))
            }
            None => first.clone(),
        };
        begins_with(&mut wire, &first, place(order, 0, users))?;
        begins_with(&mut wire, &last, place(order, begin, users))?;
        let [near, far] = medians(&mut wire, [&first, &last])?;
        println!("  {name:<37} {near:>7.2} ms {far:>10.2} ms   {:>6.2}", far / near);
    }
    Ok(())
}

/// Whose number is at a place of a list.
fn place(order: Order, place: u64, users: u64) -> u64 {
    match order {
        Order::Id => crowd::on_line(place, users),
        Order::Email | Order::Name => place,
    }
}

/// The id of a user, by email.
fn id(wire: &mut Wire, number: u64) -> Outcome<String> {
    let page = get(wire, &format!("/users?limit=1&email={}", email(number)))?;
    ids(&page).next().map(str::to_owned).ok_or_else(|| Failure(format!("there is no {}", email(number))))
}

/// Ids of users from all over, by lists of neighbours in the order of emails, who came at different times.
pub(super) fn sample(address: SocketAddr, users: u64) -> Outcome<Vec<String>> {
    /// Many more than what is kept of a list by chance.
    const LISTED: u64 = 50;
    let mut wire = Wire::to_admin(address);
    let mut all = Vec::new();
    for list in 0..LISTED {
        let after = cursor(Order::Email, users / LISTED * list, "00000000-0000-0000-0000-000000000000");
        let page = get(&mut wire, &format!("/users?limit={PAGE}&sort=email&after={after}"))?;
        all.extend(ids(&page).map(str::to_owned));
    }
    Ok(all)
}

/// A full page that begins with this user: else something else than what is meant would be measured.
fn begins_with(wire: &mut Wire, path: &str, number: u64) -> Outcome {
    let page = get(wire, path)?;
    let first = page.split("\"email\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let count = ids(&page).count() as u64;
    if first == Some(&email(number)) && count == PAGE {
        return Ok(());
    }
    Err(Failure(format!("{path}: {count} users from {first:?} on, not from {}", email(number))))
}

fn ids(page: &str) -> impl Iterator<Item = &str> {
    page.split("\"id\":\"").skip(1).filter_map(|rest| rest.split('"').next())
}

/// The median times of answers in milliseconds, over one connection.
fn medians(wire: &mut Wire, paths: [&str; 2]) -> Outcome<[f64; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..LOOKS {
        for (path, times) in paths.iter().zip(&mut times) {
            let began = Instant::now();
            get(wire, path)?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[LOOKS / 2]
    }))
}

fn get(wire: &mut Wire, path: &str) -> Outcome<String> {
    let answer = wire.get(path).doing(|| path.to_owned())?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status == 200 { Ok(body) } else { Err(Failure(format!("{path}: {} {body}", answer.status))) }
}

/// Reads all users, of whom neither side holds more than a part; gives how long that takes.
pub(super) fn export(address: SocketAddr, users: u64) -> Outcome<Duration> {
    let began = Instant::now();
    let lines = || -> std::io::Result<u64> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /users:export HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let (mut reader, mut line, mut count) = (BufReader::new(stream), Vec::new(), 0);
        while reader.read_until(b'\n', &mut line)? > 0 {
            count += u64::from(line.starts_with(b"{\"id\":"));
            line.clear();
        }
        Ok(count)
    };
    let count = lines().doing(|| "export".to_owned())?;
    if count == users {
        Ok(began.elapsed())
    } else {
        Err(Failure(format!("{count} users of {users} exported")))
    }
}
