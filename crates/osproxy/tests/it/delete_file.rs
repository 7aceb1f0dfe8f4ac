use crate::support::{TestNode, content};

/// Parts that begin, go on and end while their file is deleted leave nothing.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_arrive_while_their_file_is_deleted_leave_nothing() {
    let mut node = TestNode::start().await;
    let bytes = content(1, 20_000);
    for _ in 0..20 {
        let links = node.upload_links(&["x.bin"; 10]).await;
        let racing = links.iter().enumerate().map(|(turn, link)| {
            let (node, bytes) = (&node, &bytes);
            async move {
                let parts = (1..=3).map(|number| node.put_part(link, number, bytes));
                let delete = async {
                    for _ in 0..turn * 3 {
                        tokio::task::yield_now().await;
                    }
                    node.delete(&link.uid).await;
                };
                let (answers, ()) =
                    futures_util::future::join(futures_util::future::join_all(parts), delete).await;
                for answer in answers {
                    assert!(
                        [200, 404].contains(&answer.status().as_u16()),
                        "{}",
                        answer.text().await.unwrap()
                    );
                }
            }
        });
        futures_util::future::join_all(racing).await;
    }
    node.restart(false).await;
    node.settle().await;
    assert_eq!(node.sql("SELECT count(*) FROM blobs").await, ["0"]);
    node.assert_consistent().await;
}
