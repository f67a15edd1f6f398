//! How logins begin and end where something stands in the way.

use orrery_hub::auth::LOGIN_COOKIE;
use orrery_store::{ConnectionTrait as _, StoreError};

use crate::pages::Browser;
use crate::test_hub::TestHub;

#[tokio::test]
async fn a_logout_that_cannot_be_written_leaves_nobody_logged_in_at_the_browser() {
    let hub = TestHub::new().await.with_user("ada").await;
    let browser = Browser::of(&hub, "ada").await;
    hub.state
        .store
        .write(|transaction| async move {
            let full = "CREATE TRIGGER full BEFORE UPDATE ON orrery_sessions \
                        BEGIN SELECT RAISE(ABORT, 'full'); END";
            transaction.execute_unprepared(full).await?;
            Ok::<_, StoreError>(())
        })
        .await
        .expect("a trigger");
    let answer = browser.get("/hub/logout").await;
    assert!(answer.status.is_server_error(), "{}", answer.status);
    for cookie in [LOGIN_COOKIE, "jupyterhub-session-id"] {
        assert_eq!(browser.cookie(cookie).as_deref(), Some(""), "{cookie}");
    }
    assert_eq!(browser.get("/hub/home").await.status, 302);
}
